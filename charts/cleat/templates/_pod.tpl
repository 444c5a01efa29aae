{{/* Where members run. */}}
{{- define "cleat.scheduling" -}}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.schedulerName }}
schedulerName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .Values.affinity }}
affinity:
  {{- include "cleat.tpl" (dict "root" . "value" .Values.affinity) | nindent 2 }}
{{- else if eq .Values.antiAffinity "hard" }}
affinity:
  podAntiAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: {{ .Values.antiAffinityTopologyKey }}
        labelSelector:
          matchLabels:
            {{- include "cleat.memberLabels" . | nindent 12 }}
{{- else if eq .Values.antiAffinity "soft" }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: {{ .Values.antiAffinityTopologyKey }}
          labelSelector:
            matchLabels:
              {{- include "cleat.memberLabels" . | nindent 14 }}
{{- end }}
topologySpreadConstraints:
{{- range default (list (dict "maxSkew" 1 "topologyKey" "topology.kubernetes.io/zone" "whenUnsatisfiable" "ScheduleAnyway")) .Values.topologySpreadConstraints }}
  -
    {{- toYaml . | nindent 4 }}
    {{- if not .labelSelector }}
    labelSelector:
      matchLabels:
        {{- include "cleat.memberLabels" $ | nindent 8 }}
    {{- end }}
{{- end }}
{{- end }}

{{/* Name, namespace and peer URL of the pod. The order matters: a variable may use those before it. */}}
{{- define "cleat.podEnv" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- end }}

{{- define "cleat.serverContainer" -}}
{{- $host := printf "$(POD_NAME).%s.$(POD_NAMESPACE).svc" (include "cleat.headless" .) -}}
image: {{ include "cleat.image" (dict "root" .) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [/usr/local/bin/cleat]
args:
  - --config-file=/etc/cleat/config/cleat.yaml
  - --name=$(POD_NAME)
  - --advertise-client-urls={{ include "cleat.clientScheme" . }}://{{ $host }}:2379
  - --initial-advertise-peer-urls={{ include "cleat.peerScheme" . }}://{{ $host }}:2380
  {{- range .Values.extraArgs }}
  - {{ tpl . $ | quote }}
  {{- end }}
env:
  {{- include "cleat.podEnv" . | nindent 2 }}
  - name: ETCD_INITIAL_CLUSTER
    valueFrom:
      configMapKeyRef:
        name: {{ include "cleat.fullname" . }}-founders
        key: initial-cluster
  {{- with .Values.extraEnv }}
  {{- include "cleat.tpl" (dict "root" $ "value" .) | nindent 2 }}
  {{- end }}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- include "cleat.tpl" (dict "root" $ "value" .) | nindent 2 }}
{{- end }}
ports:
  - name: client
    containerPort: 2379
  - name: peer
    containerPort: 2380
  - name: metrics
    containerPort: 2381
{{- range $probe, $name := dict "startupProbe" "startup" "livenessProbe" "liveness" "readinessProbe" "readiness" }}
{{- with index $.Values.probes $name }}
{{ $probe }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- if and (gt (int .Values.preStopSleepSeconds) 0) (semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version) }}
lifecycle:
  preStop:
    sleep:
      seconds: {{ .Values.preStopSleepSeconds }}
{{- end }}
securityContext:
  {{- toYaml .Values.containerSecurityContext | nindent 2 }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
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
  {{- if include "cleat.clientTLS" . }}
  - name: client-tls
    mountPath: /etc/cleat/client-tls
    readOnly: true
  {{- end }}
  {{- if include "cleat.peerTLS" . }}
  - name: peer-tls
    mountPath: /etc/cleat/peer-tls
    readOnly: true
  {{- end }}
  {{- if include "cleat.mark" . }}
  - name: cluster
    mountPath: /etc/cleat/cluster
    readOnly: true
  {{- end }}
  {{- if include "cleat.joinToken" . }}
  - name: join-token
    mountPath: /etc/cleat/join-token
    readOnly: true
  {{- end }}
  {{- if eq .Values.auth.token.type "jwt" }}
  - name: jwt
    mountPath: /etc/cleat/jwt
    readOnly: true
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- include "cleat.tpl" (dict "root" $ "value" .) | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "cleat.agentContainer" -}}
name: agent
image: {{ include "cleat.image" (dict "root" .) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [/usr/local/bin/cleat-agent]
args:
  - --namespace=$(POD_NAMESPACE)
  - --statefulset={{ include "cleat.fullname" . }}
  - --pod=$(POD_NAME)
  - --member-url={{ include "cleat.clientScheme" . }}://localhost:2379
  {{- if include "cleat.clientTLS" . }}
  - --cacert=/etc/cleat/client-tls/ca.crt
  {{- end }}
  {{- if include "cleat.clientAuth" . }}
  - --cert=/etc/cleat/tool-tls/tls.crt
  - --key=/etc/cleat/tool-tls/tls.key
  {{- end }}
  - --cluster-configmap={{ include "cleat.fullname" . }}-cluster
  {{- if .Values.auth.enabled }}
  - --user=root
  - --password-file=/etc/cleat/auth/{{ include "cleat.authSecretKey" . }}
  {{- end }}
  {{- range .Values.agent.extraArgs }}
  - {{ tpl . $ | quote }}
  {{- end }}
env:
  {{- include "cleat.podEnv" . | nindent 2 }}
securityContext:
  {{- toYaml .Values.containerSecurityContext | nindent 2 }}
resources:
  {{- toYaml .Values.agent.resources | nindent 2 }}
volumeMounts:
  - name: kube-api
    mountPath: /var/run/secrets/kubernetes.io/serviceaccount
    readOnly: true
  {{- if .Values.auth.enabled }}
  - name: auth
    mountPath: /etc/cleat/auth
    readOnly: true
  {{- end }}
  {{- with include "cleat.toolMounts" . | trim }}{{ . | nindent 2 }}{{ end }}
{{- end }}

{{/* What a pod reads of the Kubernetes API's: for that container alone that mounts it. */}}
{{- define "cleat.kubeApiVolume" -}}
- name: kube-api
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3600
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
      - downwardAPI:
          items:
            - path: namespace
              fieldRef:
                fieldPath: metadata.namespace
{{- end }}

{{- define "cleat.serverVolumes" -}}
- name: config
  configMap:
    name: {{ include "cleat.fullname" . }}
    items:
      - key: cleat.yaml
        path: cleat.yaml
{{- if not .Values.persistence.enabled }}
- name: data
  emptyDir: {}
{{- end }}
{{- if include "cleat.clientTLS" . }}
- name: client-tls
  secret:
    secretName: {{ include "cleat.clientSecret" . }}
    defaultMode: 0440
{{- end }}
{{- if include "cleat.peerTLS" . }}
- name: peer-tls
  secret:
    secretName: {{ include "cleat.peerSecret" . }}
    defaultMode: 0440
{{- end }}
{{- if include "cleat.mark" . }}
- name: cluster
  configMap:
    name: {{ include "cleat.fullname" . }}-cluster
    optional: true
{{- end }}
{{- if include "cleat.joinToken" . }}
- name: join-token
  secret:
    secretName: {{ include "cleat.joinTokenSecret" . }}
    defaultMode: 0440
{{- end }}
{{- if eq .Values.auth.token.type "jwt" }}
- name: jwt
  secret:
    secretName: {{ .Values.auth.token.existingSecret }}
    defaultMode: 0440
{{- end }}
{{- if .Values.agent.enabled }}
{{ include "cleat.kubeApiVolume" . }}
{{- if .Values.auth.enabled }}
- name: auth
  secret:
    secretName: {{ include "cleat.authSecret" . }}
    defaultMode: 0440
{{- end }}
{{- end }}
{{- if or .Values.agent.enabled (include "cleat.restoring" .) }}
{{- include "cleat.toolVolumes" . }}
{{- end }}
{{- if include "cleat.restoring" . }}
{{- include "cleat.backupVolumes" . }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ include "cleat.tpl" (dict "root" $ "value" .) }}
{{- end }}
{{- end }}

{{/* A claim of the StatefulSet. Takes a dict: root, name, claim. Its labels are not the chart's: they could never change. */}}
{{- define "cleat.claim" -}}
- apiVersion: v1
  kind: PersistentVolumeClaim
  metadata:
    name: {{ .name }}
    labels:
      {{- include "cleat.memberLabels" .root | nindent 6 }}
      {{- with .claim.labels }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- with .claim.annotations }}
    annotations:
      {{- toYaml . | nindent 6 }}
    {{- end }}
  spec:
    accessModes:
      {{- toYaml .claim.accessModes | nindent 6 }}
    {{- with include "cleat.storageClass" (dict "root" .root "class" .claim.storageClass) | trim }}{{ . | nindent 4 }}{{ end }}
    resources:
      requests:
        storage: {{ .claim.size }}
    {{- with .claim.selector }}
    selector:
      {{- toYaml . | nindent 6 }}
    {{- end }}
{{- end }}

{{/* All claims of the StatefulSet, or nothing. */}}
{{- define "cleat.claims" -}}
{{- if .Values.persistence.enabled }}
{{ include "cleat.claim" (dict "root" . "name" "data" "claim" .Values.persistence) }}
{{- end }}
{{- if .Values.persistence.wal.enabled }}
{{ include "cleat.claim" (dict "root" . "name" "wal" "claim" (merge (dict) .Values.persistence.wal .Values.persistence)) }}
{{- end }}
{{- with .Values.extraVolumeClaimTemplates }}
{{ include "cleat.tpl" (dict "root" $ "value" .) }}
{{- end }}
{{- end }}
