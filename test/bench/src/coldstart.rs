//! How soon an agent serves that starts with nothing but its own disk.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Result;

use crate::api::{ApiServer, Load, Served};
use crate::frame::Report;
use crate::inside::{self, BANNER, Home, NODE, POD, Samples, Signal};
use crate::lab::Lab;

/// Restarts of each kind; odd, so that the median is a sample.
const ROUNDS: usize = 9;

/// Services with ten endpoints each that the journal has, and the ending of the figures.
const SIZES: [(usize, &str); 2] = [(1_000, ""), (5_000, "_5k")];

/// Runs the bench.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    let lab = Lab::without_agents(&inside::site())?;
    report.add_all(&lab.inside(NODE, "coldstart")?)?;
    report.note(
        "start",
        "no API server, no relay, no default route; a journal of 1,000 (_5k: 5,000) Services with 10 endpoints each; \
         from before the process is made to the first right answer over UDP, and to the first line from a pod of the \
         node through the proxy",
    );
    report.note("_killed", "the agent before was ended with SIGKILL; without the word, with SIGTERM");
    Ok(())
}

/// The part in the node.
pub(crate) fn inside(samples: &mut Samples, psk: &Path) -> Result<()> {
    for (services, suffix) in SIZES {
        let mut api = ApiServer::start()?;
        api.load(Load { services: services - 1, endpoints: 10, pods: 0 })?;
        let service = Served {
            name: "served".to_owned(),
            vip: Ipv4Addr::new(10, 96, 0, 1),
            port: BANNER,
            node: NODE,
            pod: POD,
            headless: false,
        };
        api.create(&service)?;
        let home = Home::new(psk, api.url())?;
        let mut agent = home.start()?;
        agent.until_current(services)?;
        agent.until("the journal", |status| {
            status["metadata"]["journal"].as_str().is_some_and(|words| words.starts_with("saved"))
        })?;
        drop(api);
        for (signal, kind) in [(Signal::Term, ""), (Signal::Kill, "_killed")] {
            let (mut to_dns, mut to_proxy) = (0.0_f64, 0.0_f64);
            for _ in 0..ROUNDS {
                agent.stop(signal)?;
                let mut next = None;
                let seen = inside::probe(&service, || {
                    next = Some(home.start()?);
                    Ok(())
                });
                let Some(started) = next else { return seen.map(drop) };
                let seen = seen?;
                let ms = |at: std::time::Instant| at.duration_since(started.began).as_secs_f64() * 1e3;
                samples.add(format!("ms_to_dns{kind}{suffix}"), ms(seen.resolved));
                samples.add(format!("ms_to_proxy{kind}{suffix}"), ms(seen.connected));
                (to_dns, to_proxy) = (to_dns.max(ms(seen.resolved)), to_proxy.max(ms(seen.connected)));
                agent = started;
            }
            samples.add(format!("ms_to_dns{kind}_max{suffix}"), to_dns);
            samples.add(format!("ms_to_proxy{kind}_max{suffix}"), to_proxy);
        }
        agent.stop(Signal::Term)?;
    }
    Ok(())
}
