{{/* Sidecars for pods of applications. A chart that has this one as a dependency may include them in its own pods. */}}

{{/* Resources and templates of confd, as JSON: those of the example where none are given. */}}
{{- define "cleat.confdFiles" -}}
{{- if or .Values.confd.resources .Values.confd.templates -}}
{{- dict "resources" .Values.confd.resources "templates" .Values.confd.templates | toJson -}}
{{- else -}}
{{- dict "resources" (dict "app.toml" (.Files.Get "files/example/app.toml")) "templates" (dict "app.conf.tmpl" (.Files.Get "files/example/app.conf.tmpl")) | toJson -}}
{{- end -}}
{{- end }}

{{/* confd: a container that renders files into the volume `confd-files`, below /etc/app. Takes a dict: root. */}}
{{- define "cleat.confdSidecar" -}}
name: confd
image: {{ include "cleat.image" (dict "root" .root "image" .root.Values.confd.image) }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
command: [/usr/local/bin/confd]
args:
  - -watch
  - -backend=etcdv3
  - -node={{ include "cleat.endpoint" .root }}
  {{- if include "cleat.clientTLS" .root }}
  - -client-ca-keys=/etc/cleat/client-tls/ca.crt
  {{- end }}
  {{- if include "cleat.clientAuth" .root }}
  - -client-cert=/etc/cleat/tool-tls/tls.crt
  - -client-key=/etc/cleat/tool-tls/tls.key
  {{- end }}
  {{- range .root.Values.confd.extraArgs }}
  - {{ tpl . $.root | quote }}
  {{- end }}
securityContext:
  {{- toYaml .root.Values.containerSecurityContext | nindent 2 }}
resources:
  {{- toYaml .root.Values.confd.containerResources | nindent 2 }}
volumeMounts:
  - name: confd
    mountPath: /etc/confd
    readOnly: true
  - name: confd-files
    mountPath: /etc/app
  {{- with include "cleat.toolMounts" .root | trim }}{{ . | nindent 2 }}{{ end }}
{{- end }}
{{/* Its volumes, but for those of the certificates (cleat.toolVolumes). */}}
{{- define "cleat.confdVolumes" -}}
{{- $files := include "cleat.confdFiles" .root | fromJson -}}
- name: confd
  projected:
    sources:
      - configMap:
          name: {{ include "cleat.fullname" .root }}-confd
          items:
            {{- range $name, $text := $files.resources }}
            - key: resource.{{ $name }}
              path: conf.d/{{ $name }}
            {{- end }}
            {{- range $name, $text := $files.templates }}
            - key: template.{{ $name }}
              path: templates/{{ $name }}
            {{- end }}
- name: confd-files
  emptyDir: {}
{{- end }}

{{/* Flags by which metad finds the store. */}}
{{- define "cleat.metadStore" -}}
- --backend=etcdv3
- --nodes={{ include "cleat.endpoint" . }}
- --prefix={{ .Values.metad.prefix }}
{{- if include "cleat.clientTLS" . }}
- --client_ca_keys=/etc/cleat/client-tls/ca.crt
{{- end }}
{{- if include "cleat.clientAuth" . }}
- --client_cert=/etc/cleat/tool-tls/tls.crt
- --client_key=/etc/cleat/tool-tls/tls.key
{{- end }}
{{- end }}

{{/* metad as a sidecar: answers the containers of its own pod at http://127.0.0.1:9680. Takes a dict: root. */}}
{{- define "cleat.metadSidecar" -}}
name: metad
image: {{ include "cleat.image" (dict "root" .root) }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
command: [/usr/local/bin/metad]
args:
  {{- include "cleat.metadStore" .root | nindent 2 }}
  - --listen=127.0.0.1:9680
  - --kubernetes
  - --kubernetes_node=$(NODE_NAME)
  - --local_client=$(POD_IP)
  {{- range .root.Values.metad.extraArgs }}
  - {{ tpl . $.root | quote }}
  {{- end }}
env:
  - name: NODE_NAME
    valueFrom:
      fieldRef:
        fieldPath: spec.nodeName
  - name: POD_IP
    valueFrom:
      fieldRef:
        fieldPath: status.podIP
securityContext:
  {{- toYaml .root.Values.containerSecurityContext | nindent 2 }}
resources:
  {{- toYaml .root.Values.metad.resources | nindent 2 }}
volumeMounts:
  - name: kube-api
    mountPath: /var/run/secrets/kubernetes.io/serviceaccount
    readOnly: true
  {{- with include "cleat.toolMounts" .root | trim }}{{ . | nindent 2 }}{{ end }}
{{- end }}
