{{/* The server's configuration file: what is the same for all members. */}}
{{- define "cleat.serverConfig" -}}
data-dir: /var/lib/cleat/data/member
{{- if .Values.persistence.wal.enabled }}
wal-dir: /var/lib/cleat/wal/member
{{- end }}
listen-client-urls: "{{ include "cleat.clientScheme" . }}://{{ .Values.listenAddress }}:2379"
listen-peer-urls: "{{ include "cleat.peerScheme" . }}://{{ .Values.listenAddress }}:2380"
listen-metrics-urls: "http://{{ .Values.listenAddress }}:2381"
initial-cluster-state: {{ .Values.bootstrap.mode }}
initial-cluster-token: {{ default (printf "%s/%s" (include "cleat.namespace" .) (include "cleat.fullname" .)) .Values.bootstrap.clusterToken | quote }}
{{- if eq .Values.bootstrap.mode "auto" }}
{{- if not .Values.bootstrap.allowRebootstrap }}
initial-cluster-id-file: /etc/cleat/cluster/cluster-id
{{- end }}
{{- if include "cleat.joinToken" . }}
join-token-file: /etc/cleat/join-token/token
{{- end }}
{{- end }}
{{- if include "cleat.clientTLS" . }}
cert-file: /etc/cleat/client-tls/tls.crt
key-file: /etc/cleat/client-tls/tls.key
{{- if include "cleat.clientAuth" . }}
client-cert-auth: true
trusted-ca-file: /etc/cleat/client-tls/ca.crt
{{- end }}
{{- end }}
{{- if include "cleat.peerTLS" . }}
peer-cert-file: /etc/cleat/peer-tls/tls.crt
peer-key-file: /etc/cleat/peer-tls/tls.key
peer-client-cert-auth: true
peer-trusted-ca-file: /etc/cleat/peer-tls/ca.crt
# The address of a pod says nothing about the names in its certificate.
peer-skip-client-san-verification: true
{{- if ne .Values.tls.source "existingSecret" }}
# Who has a certificate of a member is one; other certificates of the same authority do not do.
peer-cert-allowed-hostname: {{ printf "%s-0.%s.%s.svc" (include "cleat.fullname" .) (include "cleat.headless" .) (include "cleat.namespace" .) }}
{{- end }}
{{- end }}
{{- if eq .Values.auth.token.type "jwt" }}
auth-token: "jwt,sign-method={{ .Values.auth.token.signMethod }},priv-key=/etc/cleat/jwt/jwt.key,pub-key=/etc/cleat/jwt/jwt.pub,ttl={{ .Values.auth.token.ttl }}"
{{- end }}
{{- range $flag, $value := .Values.config }}
{{ $flag }}: {{ if kindIs "float64" $value }}{{ if eq $value (floor $value) }}{{ int64 $value }}{{ else }}{{ $value }}{{ end }}{{ else if kindIs "bool" $value }}{{ $value }}{{ else }}{{ $value | toString | quote }}{{ end }}
{{- end }}
{{- end }}
