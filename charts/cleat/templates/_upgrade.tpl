{{/* What cannot be changed in a release that runs, told before anything is. Where Helm cannot ask the cluster (`helm template`, Argo CD) nothing
is known of it. */}}
{{- define "cleat.validateUpgrade" -}}
{{- $statefulset := lookup "apps/v1" "StatefulSet" (include "cleat.namespace" .) (include "cleat.fullname" .) -}}
{{- if and .Release.IsUpgrade $statefulset -}}
{{- include "cleat.validateScale" (dict "root" . "spec" $statefulset.spec) -}}
{{- include "cleat.validatePeerScheme" . -}}
{{- include "cleat.validateImmutable" (dict "root" . "spec" $statefulset.spec) -}}
{{- end -}}
{{- end }}

{{/* In mode new members are removed by hand first, so the pods that are too many belong to none. */}}
{{- define "cleat.validateScale" -}}
{{- $running := .spec.replicas | int -}}
{{- $wanted := .root.Values.replicaCount | int -}}
{{- if and (eq .root.Values.bootstrap.mode "auto") (le (mul 2 $wanted) $running) -}}
{{- fail (printf "replicaCount %d is no majority of the %d members that there are, and the rest could not go on: go down in steps that leave a majority, and wait for the Event MemberRemoved of each member" $wanted $running) -}}
{{- end -}}
{{- end }}

{{/* A member that speaks the other one reaches nobody, and the rollout would stop at the first. */}}
{{- define "cleat.validatePeerScheme" -}}
{{- $config := lookup "v1" "ConfigMap" (include "cleat.namespace" .) (include "cleat.fullname" .) -}}
{{- $was := regexFind "listen-peer-urls: \"https?:" (dig "data" "cleat.yaml" "" $config) | trimPrefix "listen-peer-urls: \"" | trimSuffix ":" -}}
{{- $is := include "cleat.peerScheme" . -}}
{{- if and $was (ne $was $is) -}}
{{- fail (printf "tls.source and tls.peer.enabled: the members speak %s with each other, and one that speaks %s would reach none of them; keep the values, or back up and restore into a new release" $was $is) -}}
{{- end -}}
{{- end }}

{{/* Fields that Kubernetes refuses to change, without a word about values. Takes a dict: root, spec. */}}
{{- define "cleat.validateImmutable" -}}
{{- $name := include "cleat.fullname" .root -}}
{{- $namespace := include "cleat.namespace" .root -}}
{{- $remedy := printf "Kubernetes does not change that: keep the value, or take the StatefulSet away without its pods (kubectl -n %s delete statefulset %s --cascade=orphan) and upgrade again" $namespace $name -}}
{{- if ne .spec.podManagementPolicy .root.Values.podManagementPolicy -}}
{{- fail (printf "podManagementPolicy is %s, and that of StatefulSet %s is %s. %s" .root.Values.podManagementPolicy $name .spec.podManagementPolicy $remedy) -}}
{{- end -}}
{{- $values := dict "data" "persistence" "wal" "persistence.wal" -}}
{{- $claims := include "cleat.claims" .root | fromYamlArray -}}
{{- $are := list -}}
{{- range $claim := $claims }}{{ $are = append $are $claim.metadata.name }}{{ end -}}
{{- $were := list -}}
{{- range $claim := .spec.volumeClaimTemplates }}{{ $were = append $were $claim.metadata.name }}{{ end -}}
{{- if ne (join ", " $are) (join ", " $were) -}}
{{- fail (printf "persistence.enabled, persistence.wal.enabled and extraVolumeClaimTemplates make the claims [%s], and StatefulSet %s has [%s]. %s. Each pod gets its new volume when it is deleted, one at a time" (join ", " $are) $name (join ", " $were) $remedy) -}}
{{- end -}}
{{- range $index, $is := $claims -}}
{{- $was := index $.spec.volumeClaimTemplates $index -}}
{{- $value := get $values $is.metadata.name -}}
{{- if $value -}}
{{- /* Kubernetes may write 1024Mi as 1Gi, which is no change. */ -}}
{{- $size := $is.spec.resources.requests.storage | toString -}}
{{- $old := $was.spec.resources.requests.storage | toString -}}
{{- if and (ne $size $old) (eq (regexFind "[A-Za-z]*$" $size) (regexFind "[A-Za-z]*$" $old)) -}}
{{- fail (printf "%s.size is %s, and StatefulSet %s has claims of %s. %s, after a patch of each claim (kubectl -n %s patch pvc %s-%s-0 -p '{\"spec\":{\"resources\":{\"requests\":{\"storage\":\"%s\"}}}}')" $value $size $name $old $remedy $namespace $is.metadata.name $name $size) -}}
{{- end -}}
{{- if ne ($is.spec.storageClassName | default "") ($was.spec.storageClassName | default "") -}}
{{- fail (printf "%s.storageClass makes claims of class %q, and StatefulSet %s has %q. %s; members get volumes of that class when their claims are deleted with their pods, one at a time" $value ($is.spec.storageClassName | default "") $name ($was.spec.storageClassName | default "") $remedy) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}
