{{/* What both charts share. A chart cannot read another's templates, so the file lies in both; test/deploy/check.py compares them. */}}

{{/* root, component */}}
{{- define "mesh.labels" -}}
k8s-app: kubeedge
kubeedge: {{ .component }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end -}}

{{/* values, prefix: where the values are, for messages */}}
{{- define "mesh.image" -}}
{{- $image := required (printf "%simage is empty: name the image that deploy/Dockerfile builds" .prefix) .values.image -}}
{{- if regexMatch "kubeedge/edgemesh-(agent|gateway):v1[.]" $image -}}
{{- fail (printf "%simage %s is Go EdgeMesh's, which cannot run with what this chart allows it: name the image that deploy/Dockerfile builds. `helm upgrade --reuse-values` keeps the old chart's image; use `--reset-then-reuse-values`." .prefix $image) -}}
{{- end -}}
{{- $image -}}
{{- end -}}

{{/* values; "true" unless modules.edgeTunnel.enable is false */}}
{{- define "mesh.tunnel" -}}
{{- $modules := .values.modules | default dict -}}
{{- $tunnel := $modules.edgeTunnel | default dict -}}
{{- if ne (toString $tunnel.enable) "false" -}}true{{- end -}}
{{- end -}}

{{/* values, prefix, name: of the Secret that the chart makes. The name of the Secret with the key; nothing without a tunnel. */}}
{{- define "mesh.pskSecret" -}}
{{- if include "mesh.tunnel" . -}}
{{- if .values.pskSecret -}}
{{- .values.pskSecret -}}
{{- else -}}
{{- $make := printf "Make a key with `edgemesh psk` or `openssl rand -base64 32`, and give it as %spsk, or put it into a Secret under the name psk and give the Secret's name as %spskSecret." .prefix .prefix -}}
{{- if not .values.psk -}}
{{- fail (printf "There is no private-network key: nodes with the same key form the mesh, so every mesh needs its own. %s" $make) -}}
{{- end -}}
{{- if not (kindIs "string" .values.psk) -}}
{{- fail (printf "%spsk is a number; give it with --set-string, or in quotes." .prefix) -}}
{{- end -}}
{{- if eq (trim .values.psk) "JugH9HP1XBouyO5pWGeZa8LtipDURrf17EJvUHcJGuQ=" -}}
{{- fail (printf "%spsk is the default that Go EdgeMesh publishes: everybody has it. %s" .prefix $make) -}}
{{- end -}}
{{- .name -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* values; the file with the key, as the process sees it. The key is a file in a mounted folder, not a subPath, which
     would keep the old key until the pod is made anew. */}}
{{- define "mesh.pskPath" -}}
{{- $modules := .values.modules | default dict -}}
{{- $tunnel := $modules.edgeTunnel | default dict -}}
{{- $psk := $tunnel.psk | default dict -}}
{{- $psk.path | default "/etc/edgemesh/secrets/psk" -}}
{{- end -}}

{{/* values, prefix; YAML list of relays. The list beside `modules` wins, as in Go EdgeMesh's charts. */}}
{{- define "mesh.relayNodes" -}}
{{- $modules := .values.modules | default dict -}}
{{- $tunnel := $modules.edgeTunnel | default dict -}}
{{- $prefix := .prefix -}}
{{- $relays := list -}}
{{- range $index, $given := .values.relayNodes | default $tunnel.relayNodes | default list -}}
{{- if not (and (kindIs "map" $given) (get ($given | default dict) "nodeName")) -}}
{{- fail (printf "%srelayNodes[%d] has no nodeName." $prefix $index) -}}
{{- end -}}
{{- $relay := deepCopy $given -}}
{{- if kindIs "string" $relay.advertiseAddress -}}
{{- $_ := set $relay "advertiseAddress" (list $relay.advertiseAddress) -}}
{{- end -}}
{{- $relays = append $relays $relay -}}
{{- end -}}
{{- if $relays -}}{{- toYaml $relays -}}{{- end -}}
{{- end -}}

{{/* values, prefix, apiVersion, kind; the file that the process reads. Every key of the values passes, also false and 0.
     With `restart`, only what the process takes over at its next start (docs/config.md): the rest it follows. */}}
{{- define "mesh.config" -}}
{{- $values := .values -}}
{{- $config := dict "apiVersion" .apiVersion "kind" .kind -}}
{{- range $block := list "kubeAPIConfig" "commonConfig" "pprofConfig" -}}
{{- with index $values $block -}}{{- $_ := set $config $block (deepCopy .) -}}{{- end -}}
{{- end -}}
{{- range $key := list "accessLog" "metricsListen" -}}
{{- /* `off` without quotes is false to Helm. */ -}}
{{- if eq (toString (get ($config.commonConfig | default dict) $key)) "false" -}}{{- $_ := set $config.commonConfig $key "off" -}}{{- end -}}
{{- end -}}
{{- if .restart -}}
{{- $common := omit ($config.commonConfig | default dict) "accessLog" "logLevel" -}}
{{- $config = omit $config "commonConfig" -}}
{{- with $common -}}{{- $_ := set $config "commonConfig" . -}}{{- end -}}
{{- end -}}
{{- $modules := deepCopy ($values.modules | default dict) -}}
{{- $tunnel := $modules.edgeTunnel | default dict -}}
{{- with include "mesh.relayNodes" . -}}{{- $_ := set $tunnel "relayNodes" (fromYamlArray .) -}}{{- end -}}
{{- if .restart -}}
{{- $tunnel = omit $tunnel "relayNodes" -}}
{{- with $modules.edgeProxy -}}{{- $_ := set $modules "edgeProxy" (omit . "serviceFilterMode" "hijackKubernetesService") -}}{{- end -}}
{{- end -}}
{{- $_ := set $tunnel "psk" (merge (dict "path" (include "mesh.pskPath" .)) ($tunnel.psk | default dict)) -}}
{{- $_ := set $modules "edgeTunnel" $tunnel -}}
{{- $ranges := deepCopy ($values.meshCIDRConfig | default dict) -}}
{{- range $key := list "cloudCIDR" "edgeCIDR" -}}
{{- with index $values $key -}}{{- $_ := set $ranges $key . -}}{{- end -}}
{{- end -}}
{{- if $ranges -}}
{{- $cni := $modules.edgeCNI | default dict -}}
{{- $_ := set $cni "meshCIDRConfig" (merge $ranges ($cni.meshCIDRConfig | default dict)) -}}
{{- $_ := set $modules "edgeCNI" $cni -}}
{{- end -}}
{{- $_ := set $config "modules" $modules -}}
{{- toYaml $config -}}
{{- end -}}

{{/* values, metrics: the default; the address for probes: the one of commonConfig.metricsListen, loopback where that is every address */}}
{{- define "mesh.probed" -}}
{{- $common := .values.commonConfig | default dict -}}
{{- $listen := $common.metricsListen | default .metrics -}}
{{- if not (has (toString $common.metricsListen) (list "off" "false")) -}}
{{- $port := regexFind "[0-9]+$" $listen | required (printf "commonConfig.metricsListen %q is no IP:PORT" $listen) -}}
{{- $host := $listen | trimSuffix (printf ":%s" $port) | trimPrefix "[" | trimSuffix "]" -}}
{{- if has $host (list "" "0.0.0.0") }}{{- $host = "127.0.0.1" -}}{{- end -}}
{{- if eq $host "::" }}{{- $host = "::1" -}}{{- end -}}
host: {{ $host | quote }}
port: {{ $port }}
{{- end -}}
{{- end -}}

{{/* values, metrics; probes of the container */}}
{{- define "mesh.probes" -}}
{{- with include "mesh.probed" . -}}
{{- $address := fromYaml . -}}
startupProbe:
  httpGet: { host: {{ $address.host | quote }}, port: {{ $address.port }}, path: /healthz }
  periodSeconds: 2
  failureThreshold: 30
livenessProbe:
  httpGet: { host: {{ $address.host | quote }}, port: {{ $address.port }}, path: /healthz }
  # A minute: a restart costs every connection of the node, so a busy node is given time.
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: { host: {{ $address.host | quote }}, port: {{ $address.port }}, path: /readyz }
  periodSeconds: 5
  timeoutSeconds: 2
{{- end -}}
{{- end -}}

{{/* values, secret: name; volume with the private-network key */}}
{{- define "mesh.pskVolume" -}}
- name: psk
  secret:
    secretName: {{ .secret }}
    # A key that others may read is refused.
    defaultMode: 0400
    items:
      - { key: psk, path: {{ base (include "mesh.pskPath" .) }} }
{{- end -}}
