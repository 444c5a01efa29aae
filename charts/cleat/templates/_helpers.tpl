{{/* Names of objects. 38 characters leave room for "-certificates-" and a hash, and for the time behind the name of a CronJob. */}}
{{- define "cleat.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "cleat.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 38 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 38 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 38 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "cleat.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end }}

{{- define "cleat.headless" -}}
{{- printf "%s-headless" (include "cleat.fullname" .) -}}
{{- end }}

{{/* Never a version in here: a StatefulSet's selector cannot be changed. */}}
{{- define "cleat.selectorLabels" -}}
app.kubernetes.io/name: {{ include "cleat.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "cleat.labels" -}}
{{ include "cleat.selectorLabels" . }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Metadata of an object. Takes a dict: root, name, component, and optionally labels and annotations. */}}
{{- define "cleat.metadata" -}}
{{- $annotations := merge (dict) (.annotations | default dict) .root.Values.commonAnnotations -}}
name: {{ .name }}
namespace: {{ include "cleat.namespace" .root }}
labels:
  {{- include "cleat.labels" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .component }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "cleat.memberLabels" -}}
{{ include "cleat.selectorLabels" . }}
app.kubernetes.io/component: member
{{- end }}

{{/* An image. Takes a dict: root, image. What the image does not say is that of the chart; but another image has a tag or digest of its
own, and a tag is not overruled by the chart's digest. */}}
{{- define "cleat.image" -}}
{{- $own := .image | default dict -}}
{{- if and $own.repository (not $own.tag) (not $own.digest) -}}
{{- fail (printf "the image %s has neither tag nor digest: set one, as confd.image.tag" $own.repository) -}}
{{- end -}}
{{- $image := merge (dict) $own .root.Values.image -}}
{{- if and $own.tag (not $own.digest) -}}
{{- $image = unset $image "digest" -}}
{{- end -}}
{{- $registry := default $image.registry .root.Values.global.imageRegistry -}}
{{- $name := ternary (printf "%s/%s" $registry $image.repository) $image.repository (not (empty $registry)) -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end }}

{{- define "cleat.imagePullSecrets" -}}
{{- $secrets := concat .Values.global.imagePullSecrets .Values.image.pullSecrets | uniq -}}
{{- with $secrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "cleat.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "cleat.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{/* A storage class. Takes a dict: root, class. */}}
{{- define "cleat.storageClass" -}}
{{- $class := default .root.Values.global.defaultStorageClass .class -}}
{{- if eq $class "-" }}
storageClassName: ""
{{- else if $class }}
storageClassName: {{ $class }}
{{- end }}
{{- end }}

{{/* "true" or "": what is on. */}}
{{- define "cleat.clientTLS" -}}
{{- if and (ne .Values.tls.source "none") .Values.tls.client.enabled }}true{{ end -}}
{{- end }}
{{- define "cleat.peerTLS" -}}
{{- if and (ne .Values.tls.source "none") .Values.tls.peer.enabled }}true{{ end -}}
{{- end }}
{{- define "cleat.clientAuth" -}}
{{- if and (include "cleat.clientTLS" .) .Values.tls.client.clientCertAuth }}true{{ end -}}
{{- end }}
{{- define "cleat.generatedTLS" -}}
{{- if and (eq .Values.tls.source "generated") (or .Values.tls.client.enabled .Values.tls.peer.enabled) }}true{{ end -}}
{{- end }}
{{- define "cleat.nativeSidecars" -}}
{{- $native := .Values.sidecars.native | toString -}}
{{- if or (eq $native "true") (and (eq $native "auto") (semverCompare ">=1.29.0-0" .Capabilities.KubeVersion.Version)) }}true{{ end -}}
{{- end }}

{{- define "cleat.clientScheme" -}}{{ ternary "https" "http" (not (empty (include "cleat.clientTLS" .))) }}{{- end }}
{{- define "cleat.peerScheme" -}}{{ ternary "https" "http" (not (empty (include "cleat.peerTLS" .))) }}{{- end }}

{{- define "cleat.clientSecret" -}}
{{- if eq .Values.tls.source "existingSecret" -}}
{{- .Values.tls.client.existingSecret -}}
{{- else -}}
{{- printf "%s-client-tls" (include "cleat.fullname" .) -}}
{{- end -}}
{{- end }}
{{- define "cleat.peerSecret" -}}
{{- if eq .Values.tls.source "existingSecret" -}}
{{- .Values.tls.peer.existingSecret -}}
{{- else -}}
{{- printf "%s-peer-tls" (include "cleat.fullname" .) -}}
{{- end -}}
{{- end }}
{{/* The certificate by which jobs and the agent are clients: root's, once there are users. */}}
{{- define "cleat.toolSecret" -}}
{{- if eq .Values.tls.source "existingSecret" -}}
{{- .Values.tls.client.existingClientSecret -}}
{{- else -}}
{{- printf "%s-tool-tls" (include "cleat.fullname" .) -}}
{{- end -}}
{{- end }}
{{/* The certificate by which applications' sidecars are clients: of a user who is not root. */}}
{{- define "cleat.sidecarSecret" -}}
{{- if eq .Values.tls.source "existingSecret" -}}
{{- .Values.tls.client.existingSidecarSecret -}}
{{- else -}}
{{- printf "%s-sidecar-tls" (include "cleat.fullname" .) -}}
{{- end -}}
{{- end }}
{{/* True if the release itself has pods with sidecars. */}}
{{- define "cleat.hasSidecars" -}}
{{- if or .Values.example.enabled (eq .Values.metad.mode "daemonset") }}true{{ end -}}
{{- end }}
{{- define "cleat.authSecret" -}}
{{- default (printf "%s-auth" (include "cleat.fullname" .)) .Values.auth.existingSecret -}}
{{- end }}
{{- define "cleat.authSecretKey" -}}
{{- ternary .Values.auth.existingSecretKey "root-password" (not (empty .Values.auth.existingSecret)) -}}
{{- end }}
{{- define "cleat.joinTokenSecret" -}}
{{- default (printf "%s-join-token" (include "cleat.fullname" .)) .Values.bootstrap.existingJoinTokenSecret -}}
{{- end }}
{{/* The mark that there is a cluster. */}}
{{- define "cleat.mark" -}}
{{- if and (eq .Values.bootstrap.mode "auto") (not .Values.bootstrap.allowRebootstrap) }}true{{ end -}}
{{- end }}
{{/* A join token is for members that TLS does not tell apart from strangers. */}}
{{- define "cleat.joinToken" -}}
{{- if and (eq .Values.bootstrap.mode "auto") (not (include "cleat.peerTLS" .)) }}true{{ end -}}
{{- end }}

{{/* The names that a serving certificate has, one a line. */}}
{{- define "cleat.serverNames" -}}
{{- $service := include "cleat.fullname" . -}}
{{- $namespace := include "cleat.namespace" . -}}
{{- range list $service (printf "%s.%s" $service $namespace) (printf "%s.%s.svc" $service $namespace) (printf "%s.%s.svc.%s" $service $namespace .Values.clusterDomain) }}
{{ . }}
{{- end }}
{{- include "cleat.peerNames" . }}
{{- range .Values.tls.client.extraNames }}
{{ . }}
{{- end }}
{{- end }}
{{- define "cleat.peerNames" -}}
{{- $headless := include "cleat.headless" . -}}
{{- $namespace := include "cleat.namespace" . }}
*.{{ $headless }}.{{ $namespace }}.svc
*.{{ $headless }}.{{ $namespace }}.svc.{{ .Values.clusterDomain }}
localhost
127.0.0.1
::1
{{- end }}

{{/* NAME=URL of the members that a first start is of. */}}
{{- define "cleat.initialCluster" -}}
{{- $members := list -}}
{{- range $ordinal := until (int .Values.replicaCount) -}}
{{- $name := printf "%s-%d" (include "cleat.fullname" $) $ordinal -}}
{{- $members = append $members (printf "%s=%s://%s.%s.%s.svc:2380" $name (include "cleat.peerScheme" $) $name (include "cleat.headless" $) (include "cleat.namespace" $)) -}}
{{- end -}}
{{- join "," $members -}}
{{- end }}

{{/* Endpoints for jobs. */}}
{{- define "cleat.endpoint" -}}
{{- printf "%s://%s.%s.svc:%d" (include "cleat.clientScheme" .) (include "cleat.fullname" .) (include "cleat.namespace" .) (int .Values.service.port) -}}
{{- end }}

{{/* Environment by which cleatctl, cleat-jobs and etcdctl find the cluster. */}}
{{- define "cleat.toolEnv" -}}
- name: ETCDCTL_ENDPOINTS
  value: {{ include "cleat.endpoint" . | quote }}
{{- if include "cleat.clientTLS" . }}
- name: ETCDCTL_CACERT
  value: /etc/cleat/client-tls/ca.crt
{{- end }}
{{- if include "cleat.clientAuth" . }}
- name: ETCDCTL_CERT
  value: /etc/cleat/tool-tls/tls.crt
- name: ETCDCTL_KEY
  value: /etc/cleat/tool-tls/tls.key
{{- end }}
{{- if .Values.auth.enabled }}
- name: ETCDCTL_USER
  value: root
- name: ETCDCTL_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "cleat.authSecret" . }}
      key: {{ include "cleat.authSecretKey" . }}
{{- end }}
{{- end }}
{{/* What a client needs to reach the cluster: the authority alone, not the server's key, and a certificate of its own. Takes a
dict: root, name (tool or sidecar). */}}
{{- define "cleat.certificateMounts" -}}
{{- if include "cleat.clientTLS" .root }}
- name: client-ca
  mountPath: /etc/cleat/client-tls
  readOnly: true
{{- end }}
{{- if include "cleat.clientAuth" .root }}
- name: {{ .name }}-tls
  mountPath: /etc/cleat/{{ .name }}-tls
  readOnly: true
{{- end }}
{{- end }}
{{- define "cleat.certificateVolumes" -}}
{{- if include "cleat.clientTLS" .root }}
- name: client-ca
  secret:
    secretName: {{ include "cleat.clientSecret" .root }}
    items:
      - key: ca.crt
        path: ca.crt
{{- end }}
{{- if include "cleat.clientAuth" .root }}
- name: {{ .name }}-tls
  secret:
    secretName: {{ include (printf "cleat.%sSecret" .name) .root }}
    defaultMode: 0440
{{- end }}
{{- end }}
{{- define "cleat.toolMounts" }}{{ include "cleat.certificateMounts" (dict "root" . "name" "tool") }}{{ end }}
{{- define "cleat.toolVolumes" }}{{ include "cleat.certificateVolumes" (dict "root" . "name" "tool") }}{{ end }}

{{/* The parts of every pod of a job. Takes a dict: root, serviceAccount (or none), restartPolicy. */}}
{{- define "cleat.jobPod" -}}
{{- with .serviceAccount }}
serviceAccountName: {{ . }}
{{- end }}
automountServiceAccountToken: {{ .token | default false }}
enableServiceLinks: false
restartPolicy: {{ .restartPolicy | default "OnFailure" }}
{{- with include "cleat.imagePullSecrets" .root | trim }}
{{ . }}
{{- end }}
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with .root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}
{{/* The parts of every container of a job. Takes a dict: root, name, command (the program and its arguments). */}}
{{- define "cleat.jobContainer" -}}
name: {{ .name }}
image: {{ include "cleat.image" (dict "root" .root) }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
command:
  {{- toYaml .command | nindent 2 }}
securityContext:
  {{- toYaml .root.Values.containerSecurityContext | nindent 2 }}
resources:
  {{- toYaml .root.Values.jobResources | nindent 2 }}
{{- end }}

{{/* A map or text with templates in it. Takes a dict: root, value. */}}
{{- define "cleat.tpl" -}}
{{- if typeIs "string" .value -}}
{{- tpl .value .root -}}
{{- else -}}
{{- tpl (toYaml .value) .root -}}
{{- end -}}
{{- end }}
