//! An agent that ends and comes back: what the kernel carries goes on, what the proxy carries waits.

use edgemesh_e2e::{FAR, Lab, NEAR, program, v4, v6};

/// How long a client may wait for the proxy's return, in milliseconds.
const PATIENCE: &str = "20000";

#[test]
fn the_kernel_carries_on_while_the_agent_is_away() {
    let lab = Lab::two_nodes("restart");
    let mut near = lab.agent("n1", &["--keep-rules"]);
    let _far = lab.agent("n2", &[]);
    near.until_path("n2");
    let near_service = [v4(NEAR, 81), v6(NEAR, 81)];
    for frontend in &near_service {
        let carrier = near.explain(frontend)["carriers"][0].as_str().unwrap_or_default().to_owned();
        assert!(carrier.starts_with("kernel: spread over 1 endpoints"), "{carrier}");
    }
    let held = near_service.clone().map(|frontend| lab.background("c1", &["tcp-held", &frontend]));
    for killed in [false, true] {
        match killed {
            true => near.kill(),
            false => assert!(near.terminate().success()),
        }
        for frontend in &near_service {
            for client in ["c1", "n1"] {
                assert_eq!(lab.outcome(client, &["tcp", frontend]), "connected", "{client} to {frontend}");
            }
        }
        let udp = [v4(NEAR, 85), v6(NEAR, 85)];
        for frontend in &udp {
            assert_eq!(lab.outcome("c1", &["udp", frontend, "2000"]), "answered");
        }
        // Whom the proxy serves tries again until somebody listens.
        near = std::thread::scope(|scope| {
            let lab = &lab;
            let waiting = [v4(FAR, 81), v6(FAR, 81)]
                .map(|frontend| scope.spawn(move || lab.outcome("c1", &["tcp", &frontend, PATIENCE])));
            let near = lab.agent("n1", &["--keep-rules"]);
            near.until_path("n2");
            for probe in waiting {
                assert_eq!(probe.join().expect("the probe ends"), "connected");
            }
            near
        });
    }
    // Nobody ended them: the client's own patience did.
    for held in held {
        assert_eq!(held.end()["end"], "silent", "a connection through the kernel broke");
    }
    assert!(near.terminate().success());
    let said = lab.exec("n1", &[&program("edgemesh").display().to_string(), "cleanup"]);
    assert!(said.contains("removed"), "{said}");
}
