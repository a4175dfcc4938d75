{{/* The labels of a component: scaledapp.labels (list $ "operator") */}}
{{- define "scaledapp.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Values.nameOverride | default "scaledapp" }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "scaledapp.labels" -}}
{{- $root := index . 0 -}}
{{- $ours := include "scaledapp.ownLabels" . -}}
{{ $ours }}
{{- $own := $ours | fromYaml }}
{{- range $name, $value := $root.Values.commonLabels }}
{{- if not (hasKey $own $name) }}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- define "scaledapp.ownLabels" -}}
{{- $root := index . 0 -}}
{{ include "scaledapp.selector" . }}
app.kubernetes.io/part-of: scaledapp
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ $root.Chart.Name }}-{{ $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* One name for each component: RELEASE-COMPONENT */}}
{{- define "scaledapp.name" -}}
{{- $root := index . 0 -}}
{{- $base := $root.Values.fullnameOverride | default $root.Release.Name -}}
{{- printf "%s-%s" ($base | trunc 40 | trimSuffix "-") (index . 1) -}}
{{- end }}

{{/* The image of a component: its own repository, otherwise one below image.registry. */}}
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
{{- fail (printf "there is no image of the %s: push the images to a registry of yours (docs/kubernetes.md) and give --set image.registry=registry.example/team for all of them, or set images.%s.repository for this one" $component $component) -}}
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
{{- fail (printf "dns.zones binds %s, which is outside of dns.zone (%s): names there are not answered; name a zone within it" $name $served) }}
{{- end }}
{{- if hasKey $bound $name }}
{{- fail (printf "dns.zones binds %s twice: name all its namespaces in one place" $name) }}
{{- end }}
{{- $_ := set $bound $name true }}
- {{ printf "--zone-namespaces=%s=%s" $name (join "," .namespaces) | quote }}
{{- end }}
{{- end }}

{{/* Names of the zone's servers, one a line: those of dns.nameservers, each once, or ns.ZONE. */}}
{{- define "scaledapp.serverNames" -}}
{{- $names := list -}}
{{- range .Values.dns.nameservers }}
{{- $names = append $names (splitList "=" . | first | trimSuffix ".") }}
{{- end }}
{{- if not $names }}
{{- $names = list (printf "ns.%s" (trimSuffix "." .Values.dns.zone)) }}
{{- end }}
{{- join "\n" ($names | uniq) -}}
{{- end }}

{{/* The servers, one a line, that have the Service's address: in the zone and without an address
     in dns.nameservers. */}}
{{- define "scaledapp.serversOfService" -}}
{{- $zone := trimSuffix "." .Values.dns.zone -}}
{{- $given := dict -}}
{{- range .Values.dns.nameservers }}
{{- $parts := splitList "=" . }}
{{- $name := first $parts | trimSuffix "." }}
{{- $within := or (eq $name $zone) (hasSuffix (printf ".%s" $zone) $name) }}
{{- if gt (len $parts) 1 }}
{{- if not $within }}
{{- fail (printf "dns.nameservers gives an address to %s, which is outside of dns.zone (%s): leave the address out, because that name's own zone has it" $name $zone) }}
{{- end }}
{{- $_ := set $given $name true }}
{{- end }}
{{- end }}
{{- $without := list -}}
{{- range splitList "\n" (include "scaledapp.serverNames" .) }}
{{- if and (or (eq . $zone) (hasSuffix (printf ".%s" $zone) .)) (not (hasKey $given .)) }}
{{- $without = append $without . }}
{{- end }}
{{- end }}
{{- join "\n" $without -}}
{{- end }}

{{/* The watched namespaces, for the operator and for DNS. */}}
{{- define "scaledapp.watchFlags" -}}
{{- range .Values.watchNamespaces }}
- --watch-namespace={{ . }}
{{- end }}
{{- end }}

{{/* Resource requests and limits of balancers; values of an older release lack this key. */}}
{{- define "scaledapp.balancerFlags" -}}
{{- $ours := dict "requests" (dict "cpu" "100m" "memory" "64Mi") "limits" (dict "memory" "512Mi") -}}
{{- $resources := (.Values.balancers | default dict).resources | default $ours -}}
{{- range $name := list "requests" "limits" }}
{{- $amounts := list }}
{{- range $resource, $amount := index $resources $name }}
{{- $amounts = append $amounts (printf "%s=%v" $resource $amount) }}
{{- end }}
- {{ printf "--balancer-%s=%s" $name (join "," $amounts) | quote }}
{{- end }}
{{- end }}

{{/* Grants a component rules of files/rights.yaml in all watched namespaces: in the
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
{{- if include "scaledapp.hasRbac" $root }}
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
{{- end }}

{{/* Whether Roles and bindings are rendered; values of an older release lack this key. */}}
{{- define "scaledapp.hasRbac" -}}
{{- if dig "create" true (.Values.rbac | default dict) }}yes{{ end -}}
{{- end }}

{{/* Pod Security "restricted", and more. Values of an older release lack this key. */}}
{{- define "scaledapp.podSecurity" -}}
{{- $ours := dict "runAsNonRoot" true "runAsUser" 65534 "runAsGroup" 65534 "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- toYaml (.Values.podSecurityContext | default $ours) -}}
{{- end }}

{{- define "scaledapp.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Names of pull secrets, one a line: ours and those of a parent chart's global values, as text or as {name: …}. */}}
{{- define "scaledapp.pullSecretNames" -}}
{{- $global := (.Values.global | default dict).imagePullSecrets | default list -}}
{{- $names := list -}}
{{- range concat (.Values.images.pullSecrets | default list) $global }}
{{- $names = append $names (kindIs "map" . | ternary (get (kindIs "map" . | ternary . dict) "name") .) }}
{{- end }}
{{- join "\n" ($names | uniq) -}}
{{- end }}

{{- define "scaledapp.pullSecrets" -}}
{{- with include "scaledapp.pullSecretNames" . }}
imagePullSecrets:
{{- range splitList "\n" . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* Labels of a component's pods; ours override others: scaledapp.podLabels (list $ "operator") */}}
{{- define "scaledapp.podLabels" -}}
{{- $ours := include "scaledapp.labels" . -}}
{{ $ours }}
{{- $own := $ours | fromYaml }}
{{- range $name, $value := (index (index . 0).Values (index . 1)).podLabels }}
{{- if not (hasKey $own $name) }}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* Placement and priority of a component's pods. */}}
{{- define "scaledapp.scheduling" -}}
{{- $root := index . 0 -}}
{{- $values := index $root.Values (index . 1) -}}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
{{ toYaml . }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- if $values.topologySpreadConstraints }}
topologySpreadConstraints:
{{ toYaml $values.topologySpreadConstraints }}
{{- else }}
{{ include "scaledapp.spread" . }}
{{- end }}
{{- end }}

{{/* Annotations of a component's pods. */}}
{{- define "scaledapp.podAnnotations" -}}
{{- with (index (index . 0).Values (index . 1)).podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Annotations of a component's ServiceAccount. */}}
{{- define "scaledapp.accountAnnotations" -}}
{{- with ((index (index . 0).Values (index . 1)).serviceAccount | default dict).annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
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

{{/* The owner of an existing definition that does not belong to this release: another release
     whose `helm uninstall` kept it, or kubectl. Helm would refuse to install over it. */}}
{{- define "scaledapp.crdOwner" -}}
{{- $crd := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" "scaledapps.scaledapp.io" -}}
{{- if $crd -}}
{{- $annotations := $crd.metadata.annotations | default dict -}}
{{- $name := index $annotations "meta.helm.sh/release-name" | default "" -}}
{{- $namespace := index $annotations "meta.helm.sh/release-namespace" | default "" -}}
{{- if not $name -}}
kubectl
{{- else if or (ne $name .Release.Name) (ne $namespace .Release.Namespace) -}}
release {{ $name }} in namespace {{ $namespace }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The budget of a component with several replicas: scaledapp.budget (list $ "operator").
     Values of an older release lack this key. */}}
{{- define "scaledapp.budget" -}}
{{- $root := index . 0 -}}
{{- $values := index $root.Values (index . 1) -}}
{{- $budget := $values.podDisruptionBudget | default dict -}}
{{- if and (gt (int $values.replicas) 1) (dig "enabled" true $budget) }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "scaledapp.name" . }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "scaledapp.labels" . | nindent 4 }}
spec:
  {{- if hasKey $budget "minAvailable" }}
  minAvailable: {{ $budget.minAvailable }}
  {{- else }}
  maxUnavailable: {{ dig "maxUnavailable" 1 $budget }}
  {{- end }}
  selector:
    matchLabels:
      {{- include "scaledapp.selector" . | nindent 6 }}
{{- end }}
{{- end }}

{{/* Our labels, and those by which a Prometheus selects: scaledapp.monitorLabels (list $ "apps") */}}
{{- define "scaledapp.monitorLabels" -}}
{{- include "scaledapp.selectedLabels" (list (index . 0) (index . 1) (index . 0).Values.metrics.podMonitor.labels) -}}
{{- end }}

{{/* Our labels, and others by which something selects: scaledapp.selectedLabels (list $ "alerts" LABELS) */}}
{{- define "scaledapp.selectedLabels" -}}
{{- $ours := include "scaledapp.labels" (list (index . 0) (index . 1)) -}}
{{ $ours }}
{{- $own := $ours | fromYaml }}
{{- range $name, $value := index . 2 }}
{{- if not (hasKey $own $name) }}
{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* Refuses values of an older release, which lack the defaults: scaledapp.newValues (list "dashboards" VALUE) */}}
{{- define "scaledapp.newValues" -}}
{{- if not (index . 1) -}}
{{- fail (printf "metrics.%s lacks its default values, because --reuse-values takes those of the older release: use --reset-then-reuse-values" (index . 0)) -}}
{{- end -}}
{{- end }}
