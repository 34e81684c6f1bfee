{{/* root, restart: as of mesh.config */}}
{{- define "edgemesh.config" -}}
{{- include "mesh.config" (dict "values" .root.Values.agent "prefix" "agent." "apiVersion" "agent.edgemesh.config.kubeedge.io/v1alpha1" "kind" "EdgeMeshAgent" "restart" .restart) -}}
{{- end -}}
