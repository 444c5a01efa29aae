{{/* Sidecars for pods of applications. A chart that has this one as a dependency may include them in its own pods. */}}

{{/* Resources and templates of confd, as JSON: those of the example where none are given. */}}
{{- define "cleat.confdFiles" -}}
{{- if or .Values.confd.resources .Values.confd.templates -}}
{{- dict "resources" .Values.confd.resources "templates" .Values.confd.templates | toJson -}}
{{- else -}}
{{- dict "resources" (dict "app.toml" (.Files.Get "files/example/app.toml")) "templates" (dict "app.conf.tmpl" (.Files.Get "files/example/app.conf.tmpl")) | toJson -}}
{{- end -}}
{{- end }}

{{/* The certificates of sidecars, as for cleat.certificateMounts. */}}
{{- define "cleat.sidecarMounts" }}{{ include "cleat.certificateMounts" (dict "root" . "name" "sidecar") }}{{ end }}
{{- define "cleat.sidecarVolumes" }}{{ include "cleat.certificateVolumes" (dict "root" . "name" "sidecar") }}{{ end }}

{{/* confd: a container that renders files into the volume `confd-files`, below /etc/app. Takes a dict: root. */}}
{{- define "cleat.confdSidecar" -}}
name: confd
image: {{ include "cleat.image" (dict "root" .root "image" .root.Values.confd.image) }}
imagePullPolicy: {{ default .root.Values.image.pullPolicy .root.Values.confd.image.pullPolicy }}
command: [/usr/local/bin/confd]
args:
  - -watch
  - -backend=etcdv3
  - -node={{ include "cleat.endpoint" .root }}
  {{- if include "cleat.clientTLS" .root }}
  - -client-ca-keys=/etc/cleat/client-tls/ca.crt
  {{- end }}
  {{- if include "cleat.clientAuth" .root }}
  - -client-cert=/etc/cleat/sidecar-tls/tls.crt
  - -client-key=/etc/cleat/sidecar-tls/tls.key
  {{- end }}
  {{- with .root.Values.confd.auth.user }}
  - -basic-auth
  - -username={{ . }}
  {{- end }}
  - -metrics-addr={{ .root.Values.listenAddress }}:{{ .root.Values.confd.metricsPort }}
  {{- range .root.Values.confd.extraArgs }}
  - {{ tpl . $.root | quote }}
  {{- end }}
{{- if .root.Values.confd.auth.user }}
env:
  - name: CONFD_PASSWORD
    valueFrom:
      secretKeyRef:
        name: {{ .root.Values.confd.auth.existingSecret }}
        key: {{ .root.Values.confd.auth.existingSecretKey }}
{{- end }}
ports:
  - name: confd-metrics
    containerPort: {{ .root.Values.confd.metricsPort }}
# Whether it runs, and no more: a template that cannot be rendered is no reason to take the application away, which has the
# last good file.
livenessProbe:
  httpGet: {path: /health, port: confd-metrics}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 6
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
  {{- with include "cleat.sidecarMounts" .root | trim }}{{ . | nindent 2 }}{{ end }}
{{- end }}
{{/* Its volumes, but for those of the certificates (cleat.sidecarVolumes). */}}
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
- --client_cert=/etc/cleat/sidecar-tls/tls.crt
- --client_key=/etc/cleat/sidecar-tls/tls.key
{{- end }}
{{- with .Values.metad.auth.user }}
- --basic_auth
- --username={{ . }}
- --password_file=/etc/cleat/metad-auth/{{ $.Values.metad.auth.existingSecretKey }}
{{- end }}
{{- end }}
{{- define "cleat.metadMounts" -}}
- name: kube-api
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- if .Values.metad.auth.user }}
- name: metad-auth
  mountPath: /etc/cleat/metad-auth
  readOnly: true
{{- end }}
{{- include "cleat.sidecarMounts" . }}
{{- end }}
{{/* Its volumes, but for those of the certificates (cleat.sidecarVolumes). Takes a dict: root. */}}
{{- define "cleat.metadVolumes" -}}
{{- include "cleat.kubeApiVolume" .root }}
{{- with .root.Values.metad.auth }}
{{- if .user }}
- name: metad-auth
  secret:
    secretName: {{ .existingSecret }}
    defaultMode: 0440
    # That Secret may have more in it, which is none of metad's business.
    items:
      - key: {{ .existingSecretKey }}
        path: {{ .existingSecretKey }}
{{- end }}
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
# Both APIs are for the containers of this pod alone, on its loopback, where no kubelet asks: so probes are processes in the pod. A
# native sidecar lets the application begin after the first one. Its patience is a day. Later metad answers from what it knows, so
# a store that is away ends nobody: metad tries again by itself, sooner than a container that Kubernetes restarts with longer and
# longer pauses.
startupProbe:
  exec:
    command: [/usr/local/bin/cleat-jobs, probe, http://127.0.0.1:9611/ready]
  periodSeconds: 2
  timeoutSeconds: 10
  failureThreshold: 43200
livenessProbe:
  exec:
    command: [/usr/local/bin/cleat-jobs, probe, http://127.0.0.1:9611/health]
  periodSeconds: 30
  timeoutSeconds: 10
  failureThreshold: 3
securityContext:
  {{- toYaml .root.Values.containerSecurityContext | nindent 2 }}
resources:
  {{- toYaml .root.Values.metad.resources | nindent 2 }}
volumeMounts:
  {{- include "cleat.metadMounts" .root | nindent 2 }}
{{- end }}
