{{/* Flags that `config` may not have, separated by spaces. */}}
{{- define "cleat.managedFlags" -}}
name data-dir wal-dir config-file listen-client-urls listen-client-http-urls listen-peer-urls listen-metrics-urls advertise-client-urls initial-advertise-peer-urls initial-cluster initial-cluster-state initial-cluster-token initial-cluster-id-file join-token-file cert-file key-file client-cert-auth trusted-ca-file auto-tls peer-cert-file peer-key-file peer-client-cert-auth peer-trusted-ca-file peer-auto-tls peer-skip-client-san-verification peer-cert-allowed-hostname auth-token force-new-cluster unsafe-no-fsync discovery discovery-srv discovery-token discovery-endpoints
{{- end }}

{{/* Texts that do not look as files/shapes.yaml says. */}}
{{- define "cleat.validateShapes" -}}
{{- range $shape := .Files.Get "files/shapes.yaml" | fromYamlArray -}}
{{- range $path := $shape.values -}}
{{- $value := $.Values -}}
{{- range $name := splitList "." $path -}}
{{- $value = get $value $name -}}
{{- end -}}
{{- $texts := dict $path $value -}}
{{- if $shape.each -}}
{{- $texts = dict -}}
{{- range $key, $item := $value -}}
{{- if kindIs "map" $value -}}
{{- $texts = set $texts (printf "%s.%s" $path $key) $key -}}
{{- else -}}
{{- $texts = set $texts (printf "%s[%d]" $path $key) $item -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $where, $text := $texts -}}
{{- $is_left_out := and $shape.optional (empty $text) -}}
{{- $fits := ternary (not (regexMatch ($shape.refused | default "") $text)) (regexMatch ($shape.pattern | default "") $text) (hasKey $shape "refused") -}}
{{- if not (or $is_left_out $fits) -}}
{{- fail (printf "%s: %q must be %s" $where $text $shape.says) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* What the schema cannot say: texts of the wrong shape, and values that contradict each other. Each message names the value and the
remedy. */}}
{{- define "cleat.validate" -}}
{{- include "cleat.validateShapes" . -}}
{{- $v := .Values -}}
{{- range $flag, $_ := $v.config -}}
{{- if has $flag (include "cleat.managedFlags" $ | splitList " ") -}}
{{- fail (printf "config.%s: the chart sets this flag from other values (persistence, tls, auth, bootstrap, listenAddress), or a cluster must not have it; take it out of config" $flag) -}}
{{- end -}}
{{- end -}}
{{- if and (eq $v.tls.source "certManager") (not $v.tls.certManager.issuerRef.name) -}}
{{- fail "tls.source is certManager: set tls.certManager.issuerRef.name to an Issuer" -}}
{{- end -}}
{{- if eq $v.tls.source "existingSecret" -}}
{{- if and $v.tls.client.enabled (not $v.tls.client.existingSecret) -}}
{{- fail "tls.source is existingSecret: set tls.client.existingSecret, or tls.client.enabled to false" -}}
{{- end -}}
{{- if and $v.tls.peer.enabled (not $v.tls.peer.existingSecret) -}}
{{- fail "tls.source is existingSecret: set tls.peer.existingSecret, or tls.peer.enabled to false" -}}
{{- end -}}
{{- if and (include "cleat.clientAuth" .) (not $v.tls.client.existingClientSecret) -}}
{{- fail "tls.client.clientCertAuth needs tls.client.existingClientSecret with tls.source existingSecret: the chart's jobs are clients, too" -}}
{{- end -}}
{{- end -}}
{{- if and (eq $v.tls.source "existingSecret") (include "cleat.clientAuth" .) (include "cleat.hasSidecars" .) (not $v.tls.client.existingSidecarSecret) -}}
{{- fail "tls.client.clientCertAuth needs tls.client.existingSidecarSecret with tls.source existingSecret, for confd and metad" -}}
{{- end -}}
{{- range $name := list "confd" "metad" -}}
{{- $auth := (index $v $name).auth -}}
{{- if and $auth.user (not $auth.existingSecret) -}}
{{- fail (printf "%s.auth.user is set: set %s.auth.existingSecret to the Secret with the password" $name $name) -}}
{{- end -}}
{{- if and $v.auth.enabled (not $auth.user) (not (include "cleat.clientAuth" $)) (or $v.example.enabled (and (eq $name "metad") (eq $v.metad.mode "daemonset"))) -}}
{{- fail (printf "auth.enabled: set %s.auth.user and %s.auth.existingSecret, or tls.client.clientCertAuth, as %s could read nothing" $name $name $name) -}}
{{- end -}}
{{- end -}}
{{- if has (int $v.confd.metricsPort) (list 8080 9611 9680) -}}
{{- fail "confd.metricsPort: the example's application has 8080 in the same pod, and metad 9611 and 9680; set another port" -}}
{{- end -}}
{{- /* Probes ask there. */ -}}
{{- range $argument := $v.confd.extraArgs -}}
{{- if regexMatch "^--?metrics-addr(=|$)" (tpl $argument $) -}}
{{- fail "confd.extraArgs: the chart sets -metrics-addr, where probes ask; set confd.metricsPort for another port" -}}
{{- end -}}
{{- end -}}
{{- range $argument := $v.metad.extraArgs -}}
{{- $flag := regexFind "^--?(listen_manage|manage_cert_file|ready_path|health_path)(=|$)" (tpl $argument $) | trimAll "-=" -}}
{{- if $flag -}}
{{- fail (printf "metad.extraArgs: probes ask the manage API at http://127.0.0.1:9611, and a DaemonSet at /_ready and /_health, which %s would change; take it out" $flag) -}}
{{- end -}}
{{- end -}}
{{- if and $v.tls.client.clientCertAuth (not (include "cleat.clientTLS" .)) -}}
{{- fail "tls.client.clientCertAuth needs TLS: set tls.source to generated, certManager or existingSecret, and tls.client.enabled" -}}
{{- end -}}
{{- if and (eq $v.auth.token.type "jwt") (not $v.auth.token.existingSecret) -}}
{{- fail "auth.token.type is jwt: set auth.token.existingSecret to a Secret with jwt.key and jwt.pub" -}}
{{- end -}}
{{- if or $v.backup.enabled $v.restore.enabled -}}
{{- if eq $v.backup.destination "s3" -}}
{{- range $name := list "endpoint" "bucket" "existingSecret" -}}
{{- if not (index $v.backup.s3 $name) -}}
{{- fail (printf "backup.destination is s3: set backup.s3.%s" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $v.restore.enabled (eq $v.backup.destination "volume") (not $v.backup.volume.existingClaim) -}}
{{- fail "restore.enabled with backup.destination volume: set backup.volume.existingClaim to the claim with the snapshots" -}}
{{- end -}}
{{- if and $v.restore.enabled (eq $v.backup.destination "s3") $v.networkPolicy.enabled $v.networkPolicy.restrictEgress (not $v.networkPolicy.extraEgress) -}}
{{- fail (printf "restore.enabled with networkPolicy.restrictEgress: members' pods fetch the snapshot from %s, which they would not reach; let them with networkPolicy.extraEgress" $v.backup.s3.endpoint) -}}
{{- end -}}
{{- if and $v.agent.enabled (ne $v.bootstrap.mode "auto") -}}
{{- fail "agent.enabled needs bootstrap.mode auto, as members that the agent removes could not come back otherwise: set agent.enabled to false" -}}
{{- end -}}
{{- if and (eq $v.bootstrap.mode "new") (not $v.persistence.enabled) -}}
{{- fail "persistence.enabled is false: set bootstrap.mode to auto, as a member that lost its data could not come back with new" -}}
{{- end -}}
{{- if and (eq $v.podManagementPolicy "OrderedReady") (gt (int $v.replicaCount) 1) -}}
{{- fail "podManagementPolicy is OrderedReady: the first member waits for a majority, and the others would not be started before it is ready; set podManagementPolicy to Parallel, or replicaCount to 1" -}}
{{- end -}}
{{- if and $v.persistence.wal.enabled (not $v.persistence.enabled) -}}
{{- fail "persistence.wal.enabled needs persistence.enabled: a log without its data is worth nothing" -}}
{{- end -}}
{{- if $v.restore.enabled -}}
{{- if gt (int $v.replicaCount) 1 -}}
{{- if ne $v.bootstrap.mode "auto" -}}
{{- fail "restore.enabled with more than one member needs bootstrap.mode auto: the first member restores, and the others join it" -}}
{{- end -}}
{{- if or (not $v.agent.enabled) $v.bootstrap.allowRebootstrap -}}
{{- fail "restore.enabled with more than one member needs agent.enabled, and bootstrap.allowRebootstrap unset: the others wait for the mark that the agent writes when the first member has restored" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if include "cleat.generatedTLS" . -}}
{{- $generated := $v.tls.generated -}}
{{- if ge (int $generated.renewBeforeDays) (int $generated.days) -}}
{{- fail (printf "tls.generated.renewBeforeDays (%d) must be less than tls.generated.days (%d)" (int $generated.renewBeforeDays) (int $generated.days)) -}}
{{- end -}}
{{- if le (int $generated.caDays) (mul 2 (int $generated.days)) -}}
{{- fail (printf "tls.generated.caDays (%d) must be more than twice tls.generated.days (%d): the authority is replaced that long before its end" (int $generated.caDays) (int $generated.days)) -}}
{{- end -}}
{{- end -}}
{{- /* The alert has 14 days, in files/alerts.yaml. The job looks once a day. */ -}}
{{- $alert := "CleatCertificateEndsSoon" -}}
{{- if and $v.metrics.prometheusRule.enabled (not (has $alert $v.metrics.prometheusRule.disabled)) -}}
{{- $remedy := printf "%s would fire before each renewal, which it expects more than 14 days before the end: renew earlier, or put it into metrics.prometheusRule.disabled" $alert -}}
{{- if and (include "cleat.generatedTLS" .) (le (int $v.tls.generated.renewBeforeDays) 14) -}}
{{- fail (printf "tls.generated.renewBeforeDays (%d): %s" (int $v.tls.generated.renewBeforeDays) $remedy) -}}
{{- end -}}
{{- if eq $v.tls.source "certManager" -}}
{{- $before := $v.tls.certManager.renewBefore -}}
{{- $minutes := 0 -}}
{{- range regexFindAll "[0-9]+h" $before -1 }}{{ $minutes = add $minutes (mul 60 (trimSuffix "h" . | int)) }}{{ end -}}
{{- range regexFindAll "[0-9]+m([^s]|$)" $before -1 }}{{ $minutes = add $minutes (regexFind "[0-9]+" . | int) }}{{ end -}}
{{- if le $minutes (mul 14 24 60) -}}
{{- fail (printf "tls.certManager.renewBefore (%s): %s" $before $remedy) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- include "cleat.validateUpgrade" . -}}
{{- if and $v.metrics.serviceMonitor.enabled $v.metrics.podMonitor.enabled -}}
{{- fail "metrics.serviceMonitor.enabled and metrics.podMonitor.enabled would scrape members twice: unset one of them" -}}
{{- end -}}
{{- if and (not (kindIs "invalid" $v.pdb.minAvailable)) (not (kindIs "invalid" $v.pdb.maxUnavailable)) -}}
{{- fail "pdb.minAvailable and pdb.maxUnavailable are both set: set pdb.maxUnavailable to null for pdb.minAvailable" -}}
{{- end -}}
{{- if and $v.service.nodePort (eq $v.service.type "ClusterIP") -}}
{{- fail "service.nodePort needs service.type NodePort or LoadBalancer" -}}
{{- end -}}
{{- end }}
