use crate::field::{Effect, Field, Origin, Preset, Reload, Roles};
use crate::table;

/// What stands before the tables.
const PREFACE: &str = "\
# Configuration

The agent and the gateway read the files of Go EdgeMesh, `agent.edgemesh.config.kubeedge.io/v1alpha1` and
`gateway.edgemesh.config.kubeedge.io/v1alpha1`, with every key of EdgeMesh 1.17. What a file does not say has the default of Go
EdgeMesh. Keys marked *new* are not known to Go EdgeMesh, which passes over them; all of them may be left out.

Unknown, misspelt and older keys are warnings that name the key, its line and the key that was probably meant; a key that
does nothing here is named once with the reason. A value that cannot be used is an error, in a module that is off a warning.
`null` means the default.

The mode says where Services and Nodes come from:

| mode | when | source |
|---|---|---|
| ManifestMode | `kubeAPIConfig.manifests` is set | a directory of manifests, no cluster |
| ManualMode | `kubeAPIConfig.master` or `kubeAPIConfig.kubeConfig` is set | that API server |
| CloudMode | `KUBERNETES_PORT` is in the environment | the API server of the cluster, with the pod's service account |
| EdgeMode | otherwise | the metaServer of edgecore, `kubeAPIConfig.metaServer` |

`NODE_NAME` must be in the environment; the downward API gives it (`spec.nodeName`). `NAMESPACE` should be.

This version of the gateway follows its objects and has no listeners yet ([install.md](install.md)); its `edgeTunnel` is checked and not started.

*Reload* below means that a running program takes a change over, *restart* that it counts at the next start.
";

/// The text of `docs/config.md`.
pub fn document() -> String {
    let mut text = PREFACE.to_owned();
    let mut blocks: Vec<&str> = Vec::new();
    for field in table::fields() {
        let block = section(field);
        if !blocks.contains(&block) {
            blocks.push(block);
        }
    }
    for block in blocks {
        let fields: Vec<_> = table::fields().filter(|field| section(field) == block).collect();
        text.push_str(&heading(block, &fields));
        text.push_str("\n| key | default | meaning | effect |\n|---|---|---|---|\n");
        for field in fields {
            text.push_str(&row(field, block));
        }
    }
    text
}

/// The block whose section a key stands in: a module, or a block at the top.
fn section(field: &Field) -> &'static str {
    match table::module(field.path) {
        Some(module) => module,
        None => field.path.split_once('.').map_or("", |(block, _)| block),
    }
}

fn heading(block: &str, fields: &[&Field]) -> String {
    let readers = |roles| fields.iter().all(|field| field.roles == roles);
    let who = if readers(Roles::Agent) {
        ", agent"
    } else if readers(Roles::Gateway) {
        ", gateway"
    } else {
        ", agent and gateway"
    };
    if block.is_empty() { format!("\n## At the top{who}\n") } else { format!("\n## `{block}`{who}\n") }
}

fn row(field: &Field, block: &str) -> String {
    let key = field.path.strip_prefix(block).map_or(field.path, |rest| rest.trim_start_matches('.'));
    let who = match field.roles {
        Roles::Agent if block == "commonConfig" => " (agent)",
        Roles::Agent | Roles::Gateway | Roles::Both => "",
    };
    let new = match field.origin {
        Origin::Go => "",
        Origin::Rust => "*new*, since EdgeMesh Rust; ",
    };
    let effect = match (field.effect, field.reload) {
        (Effect::Unused(why), _) => format!("none: {why}"),
        (Effect::Used, _) if field.block().is_empty() => "checked".to_owned(),
        (Effect::Used, Reload::Running) => "reload".to_owned(),
        (Effect::Used, Reload::Restart) => "restart".to_owned(),
    };
    let meaning = format!("{}; {}", field.meaning, field.shape.expected()).replace('|', "\\|");
    format!("| `{key}`{who} | {} | {meaning} | {new}{effect} |\n", default(field))
}

fn default(field: &Field) -> String {
    let text = |text: &str| if text.is_empty() { "\"\"".to_owned() } else { format!("`{text}`") };
    match field.default {
        Preset::Flag(flag) => format!("`{flag}`"),
        Preset::Number(number) => format!("`{number}`"),
        Preset::Fraction(number) => format!("`{number}`"),
        Preset::Text(value) => text(value),
        Preset::ByRole(agent, gateway) => format!("{}, at the gateway {}", text(agent), text(gateway)),
        Preset::ByMode => "`true`, `false` where `KUBERNETES_PORT` is set".to_owned(),
        Preset::Empty => "none".to_owned(),
    }
}
