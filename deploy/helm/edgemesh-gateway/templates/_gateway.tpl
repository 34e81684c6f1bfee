{{/* root, restart: as of mesh.config */}}
{{- define "gateway.config" -}}
{{- include "mesh.config" (dict "values" .root.Values "prefix" "" "apiVersion" "gateway.edgemesh.config.kubeedge.io/v1alpha1" "kind" "EdgeMeshGateway" "restart" .restart) -}}
{{- end -}}

{{/* Refuses what would give a pod that no node runs. */}}
{{- define "gateway.nodeName" -}}
{{- with .Values.nodeName -}}
{{- if regexMatch "[^A-Za-z0-9.-]" . -}}
{{- fail (printf "nodeName %q is no node's name; leave it empty to let nodeSelector choose." .) -}}
{{- end -}}
{{- . -}}
{{- end -}}
{{- end -}}
