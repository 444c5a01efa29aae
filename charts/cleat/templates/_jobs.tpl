{{/* The name of a Job. Takes a dict: name, template. It has a hash of the whole template of its pod: that of a Job which is there
cannot be changed, so another template is another Job. */}}
{{- define "cleat.jobName" -}}
{{- printf "%s-%s" .name (.template | sha256sum | trunc 8) -}}
{{- end }}

{{/* The template of the certificate jobs' pods. Takes a dict: root, name, command. */}}
{{- define "cleat.certificatesTemplate" -}}
metadata:
  labels:
    {{- include "cleat.selectorLabels" .root | nindent 4 }}
    app.kubernetes.io/component: certificates
spec:
  {{- include "cleat.jobPod" (dict "root" .root "serviceAccount" .name) | trim | nindent 2 }}
  containers:
    -
      {{- include "cleat.jobContainer" (dict "root" .root "name" "certificates" "command" .command) | nindent 6 }}
      env:
        - name: POD_NAMESPACE
          valueFrom:
            fieldRef:
              fieldPath: metadata.namespace
      volumeMounts:
        - name: kube-api
          mountPath: /var/run/secrets/kubernetes.io/serviceaccount
          readOnly: true
  volumes:
    {{- include "cleat.kubeApiVolume" .root | nindent 4 }}
{{- end }}

{{/* The template of the pod that makes root. */}}
{{- define "cleat.authTemplate" -}}
metadata:
  labels:
    {{- include "cleat.selectorLabels" . | nindent 4 }}
    app.kubernetes.io/component: auth
spec:
  {{- include "cleat.jobPod" (dict "root" .) | trim | nindent 2 }}
  containers:
    -
      {{- include "cleat.jobContainer" (dict "root" . "name" "auth" "command" (list "/usr/local/bin/cleat-jobs" "auth")) | nindent 6 }}
      env:
        {{- include "cleat.toolEnv" . | trim | nindent 8 }}
      {{- with include "cleat.toolMounts" . }}
      volumeMounts:
        {{- . | trim | nindent 8 }}
      {{- end }}
  {{- with include "cleat.toolVolumes" . }}
  volumes:
    {{- . | trim | nindent 4 }}
  {{- end }}
{{- end }}

{{/* Where backups are, as cleat-jobs takes it. */}}
{{- define "cleat.backupPlace" -}}
{{- if eq .Values.backup.destination "s3" -}}
s3://{{ .Values.backup.s3.bucket }}/{{ default (printf "%s/%s" (include "cleat.namespace" .) (include "cleat.fullname" .)) .Values.backup.s3.prefix | trimAll "/" }}
{{- else -}}
/backup
{{- end -}}
{{- end }}
{{- define "cleat.backupEnv" -}}
{{- if eq .Values.backup.destination "s3" }}
- name: AWS_ENDPOINT_URL
  value: {{ .Values.backup.s3.endpoint | quote }}
- name: AWS_REGION
  value: {{ .Values.backup.s3.region | quote }}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef:
      name: {{ .Values.backup.s3.existingSecret }}
      key: access-key-id
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef:
      name: {{ .Values.backup.s3.existingSecret }}
      key: secret-access-key
- name: AWS_SESSION_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ .Values.backup.s3.existingSecret }}
      key: session-token
      optional: true
{{- with .Values.backup.s3.caSecret }}
- name: AWS_CA_BUNDLE
  value: /etc/cleat/s3-ca/ca.crt
{{- end }}
{{- end }}
{{- end }}
{{- define "cleat.backupMounts" -}}
{{- if eq .Values.backup.destination "volume" }}
- name: backup
  mountPath: /backup
{{- else if .Values.backup.s3.caSecret }}
- name: s3-ca
  mountPath: /etc/cleat/s3-ca
  readOnly: true
{{- end }}
{{- end }}
{{- define "cleat.backupVolumes" -}}
{{- if eq .Values.backup.destination "volume" }}
- name: backup
  persistentVolumeClaim:
    claimName: {{ default (printf "%s-backup" (include "cleat.fullname" .)) .Values.backup.volume.existingClaim }}
{{- else if .Values.backup.s3.caSecret }}
- name: s3-ca
  secret:
    secretName: {{ .Values.backup.s3.caSecret }}
{{- end }}
{{- end }}

{{/* Restoring is for a first start: an upgrade takes it out of the pods again. The first member restores, and the others wait
until the mark says that it did. */}}
{{- define "cleat.restoring" -}}
{{- if and .Values.restore.enabled .Release.IsInstall }}true{{ end -}}
{{- end }}
{{- define "cleat.restoreContainer" -}}
{{- $host := printf "$(POD_NAME).%s.$(POD_NAMESPACE).svc" (include "cleat.headless" .) -}}
- name: restore
  image: {{ include "cleat.image" (dict "root" .) }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [/usr/local/bin/cleat-jobs, restore]
  args:
    - --from={{ include "cleat.backupPlace" . }}
    - --snapshot={{ .Values.restore.snapshot }}
    - --config-file=/etc/cleat/config/cleat.yaml
    - --name=$(POD_NAME)
    - --initial-advertise-peer-urls={{ include "cleat.peerScheme" . }}://{{ $host }}:2380
    - --bump-revision={{ .Values.restore.bumpRevision | int64 }}
  env:
    {{- include "cleat.podEnv" . | nindent 4 }}
    - name: ETCD_INITIAL_CLUSTER
      valueFrom:
        configMapKeyRef:
          name: {{ include "cleat.fullname" . }}-founders
          key: initial-cluster
    {{- include "cleat.toolEnv" . | trim | nindent 4 }}
    {{- with include "cleat.backupEnv" . | trim }}{{ . | nindent 4 }}{{ end }}
  securityContext:
    {{- toYaml .Values.containerSecurityContext | nindent 4 }}
  resources:
    {{- toYaml .Values.resources | nindent 4 }}
  volumeMounts:
    - name: data
      mountPath: /var/lib/cleat/data
    {{- if .Values.persistence.wal.enabled }}
    - name: wal
      mountPath: /var/lib/cleat/wal
    {{- end }}
    - name: config
      mountPath: /etc/cleat/config
      readOnly: true
    {{- if include "cleat.mark" . }}
    - name: cluster
      mountPath: /etc/cleat/cluster
      readOnly: true
    {{- end }}
    {{- with include "cleat.toolMounts" . | trim }}{{ . | nindent 4 }}{{ end }}
    {{- with include "cleat.backupMounts" . | trim }}{{ . | nindent 4 }}{{ end }}
{{- end }}
