{{/* Flags that `config` may not have, separated by spaces. */}}
{{- define "cleat.managedFlags" -}}
name data-dir wal-dir config-file listen-client-urls listen-client-http-urls listen-peer-urls listen-metrics-urls advertise-client-urls initial-advertise-peer-urls initial-cluster initial-cluster-state initial-cluster-token initial-cluster-id-file join-token-file cert-file key-file client-cert-auth trusted-ca-file auto-tls peer-cert-file peer-key-file peer-client-cert-auth peer-trusted-ca-file peer-auto-tls peer-skip-client-san-verification peer-cert-allowed-hostname auth-token force-new-cluster unsafe-no-fsync discovery discovery-srv discovery-token discovery-endpoints
{{- end }}

{{/* What the schema cannot say: values that contradict each other. Each message names the value and the remedy. */}}
{{- define "cleat.validate" -}}
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
{{- if and $v.agent.enabled (ne $v.bootstrap.mode "auto") -}}
{{- fail "agent.enabled needs bootstrap.mode auto: members that the agent removes could not come back otherwise" -}}
{{- end -}}
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
