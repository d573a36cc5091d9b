{{- define "del.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "del.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "del.labels" -}}
{{ include "del.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "del.image" -}}
{{- with .Values.image }}{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}{{ end }}
{{- end }}

{{/* Asks a pod's health, as (dict "root" $ "service" NAME): Kubernetes' own gRPC probe speaks no TLS; with TLS a program does. */}}
{{- define "del.probe" -}}
{{- $values := .root.Values -}}
{{- if $values.tls.secretName -}}
exec:
  command:
    - /opt/del/bin/python
    - /opt/del/health.py
    - --address=127.0.0.1:{{ $values.service.port }}
    - --service={{ .service }}
    - --ca=/etc/del/tls/ca.crt
    - --name={{ $values.tls.serverName | default (printf "%s.%s.svc" (include "del.name" .root) .root.Release.Namespace) }}
    {{- if $values.tls.clientCaSecretName }}
    - --cert=/etc/del/tls/tls.crt
    - --key=/etc/del/tls/tls.key
    {{- end }}
{{- else -}}
grpc: {port: {{ $values.service.port }}, service: {{ .service }}}
{{- end }}
{{- end }}
