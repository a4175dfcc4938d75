{{/* Of a component: scaledapp.labels (list $ "operator") */}}
{{- define "scaledapp.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: scaledapp
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "scaledapp.labels" -}}
{{- $root := index . 0 -}}
{{ include "scaledapp.selector" . }}
app.kubernetes.io/part-of: scaledapp
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ $root.Chart.Name }}-{{ $root.Chart.Version }}
{{- end }}

{{/* One name for each component: RELEASE-COMPONENT */}}
{{- define "scaledapp.name" -}}
{{- $root := index . 0 -}}
{{- printf "%s-%s" ($root.Release.Name | trunc 40 | trimSuffix "-") (index . 1) -}}
{{- end }}

{{/* Of a component: its own repository, else one below image.registry. */}}
{{- define "scaledapp.image" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $image := index $root.Values.images $component -}}
{{- $registry := ($root.Values.image | default dict).registry | default ($root.Values.global | default dict).imageRegistry | default "" -}}
{{- $repository := $image.repository -}}
{{- if and (not $repository) $registry -}}
{{- $repository = printf "%s/scaledapp-%s" (trimSuffix "/" $registry) $component -}}
{{- end -}}
{{- if not $repository -}}
{{- fail (printf "there is no image of the %s: push the images to a registry of yours (README, Kubernetes) and give --set image.registry=registry.example/team for all of them, or images.%s.repository for this one" $component $component) -}}
{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default $root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end }}

{{/* Which namespaces may have names in which zone, for the operator and for DNS. */}}
{{- define "scaledapp.zoneFlags" -}}
{{- $served := trimSuffix "." .Values.dns.zone -}}
{{- $bound := dict -}}
{{- range .Values.dns.zones }}
{{- $name := trimSuffix "." .name }}
{{- if and $.Values.dns.enabled (ne $name $served) (not (hasSuffix (printf ".%s" $served) $name)) }}
{{- fail (printf "dns.zones binds %s, which is outside of dns.zone (%s): names there are not answered; give a zone within it" $name $served) }}
{{- end }}
{{- if hasKey $bound $name }}
{{- fail (printf "dns.zones binds %s twice: name all its namespaces in one place" $name) }}
{{- end }}
{{- $_ := set $bound $name true }}
- {{ printf "--zone-namespaces=%s=%s" $name (join "," .namespaces) | quote }}
{{- end }}
{{- end }}

{{/* Where ScaledApps are watched, for the operator and for DNS. */}}
{{- define "scaledapp.watchFlags" -}}
{{- range .Values.watchNamespaces }}
- --watch-namespace={{ . }}
{{- end }}
{{- end }}

{{/* Gives a component the rules of files/rights.yaml where ScaledApps are watched, in the
     whole cluster or in some namespaces: scaledapp.rights (list $ "operator" RULES). */}}
{{- define "scaledapp.rights" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $rules := index . 2 -}}
{{- if $root.Values.watchNamespaces }}
{{- range $root.Values.watchNamespaces }}
{{ include "scaledapp.grant" (list $root $component $rules .) }}
{{- end }}
{{- else }}
{{ include "scaledapp.grant" (list $root $component $rules "") }}
{{- end }}
{{- end }}

{{/* A Role of a namespace with its binding, or, without one, a ClusterRole. */}}
{{- define "scaledapp.grant" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $namespace := index . 3 -}}
{{- $account := include "scaledapp.name" (list $root $component) -}}
{{- $name := printf "%s-%s" $root.Release.Namespace $account -}}
{{- $kind := ternary "Role" "ClusterRole" (ne $namespace "") -}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  name: {{ $name }}
  {{- with $namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "scaledapp.labels" (list $root $component) | nindent 4 }}
rules:
{{ toYaml (index . 2) }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  name: {{ $name }}
  {{- with $namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "scaledapp.labels" (list $root $component) | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: {{ $kind }}, name: {{ $name }}}
subjects:
- {kind: ServiceAccount, name: {{ $account }}, namespace: {{ $root.Release.Namespace }}}
{{- end }}

{{/* Pod Security "restricted", and more. */}}
{{- define "scaledapp.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65534
runAsGroup: 65534
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "scaledapp.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "scaledapp.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "scaledapp.spread" -}}
topologySpreadConstraints:
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "scaledapp.selector" . | nindent 6 }}
{{- end }}
