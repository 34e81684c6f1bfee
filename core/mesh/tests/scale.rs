use std::sync::Arc;
use std::time::Instant;
use edgemesh_api::*;
use edgemesh_mesh::MeshState;
fn svc(n: usize) -> Arc<Object> {
    let mut s = Service::default();
    s.metadata.namespace = format!("ns{}", n % 50).into();
    s.metadata.name = format!("svc-{n}").into();
    s.spec.cluster_ip = Some(format!("10.{}.{}.1", n / 250, n % 250).into());
    s.spec.selector.insert("app".into(), format!("svc-{n}").into());
    s.spec.ports.push(ServicePort { port: 80, target_port: Some(IntOrString::Int(8080)), ..Default::default() });
    Arc::new(Object::Service(s))
}
fn pod(n: usize, r: usize) -> Arc<Object> {
    let mut p = Pod::default();
    p.metadata.namespace = format!("ns{}", n % 50).into();
    p.metadata.name = format!("svc-{n}-{r}").into();
    p.metadata.labels.insert("app".into(), format!("svc-{n}").into());
    p.metadata.labels.insert("tier".into(), "common".into());
    p.spec.node_name = Some(format!("node-{}", (n + r) % 100).into());
    p.status.pod_ip = Some(format!("172.{}.{}.{}", 16 + r, n / 250, n % 250 + 1).into());
    Arc::new(Object::Pod(p))
}
#[test]
fn scale() {
    for count in [1000, 10_000] {
        let mut state = MeshState::new("node-1".into());
        let t = Instant::now();
        state.apply(SourceEvent::Reset);
        for n in 0..count { state.apply(SourceEvent::Upsert(svc(n))); for r in 0..3 { state.apply(SourceEvent::Upsert(pod(n, r))); } }
        state.apply(SourceEvent::Synced);
        let fold = t.elapsed();
        let t = Instant::now();
        let s = state.compile();
        let first = t.elapsed();
        let t = Instant::now();
        state.apply(SourceEvent::Upsert(pod(5, 4)));
        let s2 = state.compile();
        eprintln!("{count}: fold {fold:?} first {first:?} one pod {:?} fronts {} local {}", t.elapsed(), s.frontends.len(), s2.local_backends.len());
        let t = Instant::now();
        let mut svc5 = svc(5); if let Object::Service(s) = Arc::make_mut(&mut svc5) { s.spec.session_affinity = Some("ClientIP".into()); }
        state.apply(SourceEvent::Upsert(svc5));
        state.compile();
        eprintln!("  one service {:?}", t.elapsed());
    }
}
