//! What the tunnel makes of a link of known delay, beside raw TCP on the same link.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use edgemesh_net::wire::Impairment;

use super::stage::Ground;
use super::{ANSWER, Arm, PATH_COMES, Running};
use crate::bare::Ask;
use crate::inside::Samples;
use crate::user_path::{ask, connect};

/// What a reader of the figures must know.
pub(super) const NOTE: &str = "the link of the client's node is a wire with half the round trip each way and 200 Mbit/s. \
    long_link_ratio: bytes of one stream in four seconds from its first, tunnel to raw TCP, at 60 ms; _20ms, _100ms, and \
    _loss at 20 ms with 1 % of the segments lost (a segmentation-offload frame is lost whole). first_byte_rtts: from the \
    client's connect to the first byte of the answer, in round trips, at 60 ms; raw TCP needs two, one for its handshake";

/// The ending of the figures, the round trip, and the share of segments that are lost.
const LINKS: [(&str, u64, f64); 4] =
    [("", 60, 0.0), ("_20ms", 20, 0.0), ("_100ms", 100, 0.0), ("_loss", 20, 0.01)];

/// A fast line of a branch office; at 60 ms it holds 1.5 MB, six times the window a multiplexer's stream begins with.
const RATE: u64 = 200_000_000;

/// For how long one stream is read, and how often: forty round trips of the longest link.
const READ: Duration = Duration::from_secs(4);
const ROUNDS: usize = 2;

/// Connections whose first byte is waited for.
const FIRST_BYTES: usize = 15;

/// More than any link carries in [`READ`].
const ENDLESS: u64 = 1 << 40;

pub(super) fn measure(samples: &mut Samples) -> Result<()> {
    let running = Running::start(Ground { wire: true, ..Ground::default() })?;
    running.agents.until_path("direct", PATH_COMES)?;
    let arms = [running.arm("raw")?, running.arm("tunnel")?];
    for (ending, rtt, loss) in LINKS {
        let rtt = Duration::from_millis(rtt);
        running.stage.impair(Impairment { delay: rtt / 2, loss, rate: Some(RATE) });
        running.agents.until_path("direct", PATH_COMES)?;
        if ending.is_empty() {
            for arm in &arms {
                first_bytes(samples, arm, rtt)?;
            }
        }
        let before = running.stage.passed();
        for _ in 0..ROUNDS {
            let mut rates = [0.0; 2];
            for (rate, arm) in rates.iter_mut().zip(&arms) {
                *rate = megabits(arm).with_context(|| format!("one stream by {} at {rtt:?}", arm.name))?;
                running.agents.until_idle()?;
                samples.add(format!("long_link_mbit_per_s{ending}_{}", arm.name), *rate);
            }
            samples.add(format!("long_link_ratio{ending}"), rates[1] / rates[0]);
        }
        if loss > 0.0 {
            let after = running.stage.passed();
            let (lost, passed) = (after.lost - before.lost, after.forwarded - before.forwarded);
            let percent = 100.0 * lost as f64 / (lost + passed) as f64;
            samples.add(format!("long_link_frames_lost_percent{ending}"), percent);
        }
    }
    Ok(())
}

/// Megabits per second of one stream, from its first byte on.
fn megabits(arm: &Arm) -> Result<f64> {
    let rates = arm.clients(1, || {
        let mut stream = connect(arm.target)?;
        stream.write_all(&Ask { bytes: ENDLESS, last: true }.encode())?;
        let mut buffer = vec![0; 256 << 10];
        let mut bytes = stream.read(&mut buffer)?;
        let began = Instant::now();
        while began.elapsed() < READ {
            match stream.read(&mut buffer)? {
                0 => bail!("the stream ended after {bytes} bytes"),
                length => bytes += length,
            }
        }
        Ok(bytes as f64 * 8.0 / began.elapsed().as_secs_f64() / 1e6)
    })?;
    rates.first().copied().context("one client, one rate")
}

fn first_bytes(samples: &mut Samples, arm: &Arm, rtt: Duration) -> Result<()> {
    let name = if arm.name == "raw" { "raw_first_byte_rtts" } else { "first_byte_rtts" };
    let took = arm.clients(1, || {
        let one = || -> Result<f64> {
            let began = Instant::now();
            let mut stream = connect(arm.target)?;
            stream.write_all(&Ask { bytes: ANSWER, last: true }.encode())?;
            let mut first = [0; 1];
            stream.read_exact(&mut first)?;
            let took = began.elapsed();
            // The rest, so that the connection ends in order.
            stream.read_to_end(&mut Vec::new())?;
            Ok(took.as_secs_f64() / rtt.as_secs_f64())
        };
        // The first one may find the peer's connection idle.
        ask(&mut connect(arm.target)?, Ask { bytes: ANSWER, last: true }, &mut [0; 4096])?;
        (0..FIRST_BYTES).map(|_| one()).collect::<Result<Vec<f64>>>()
    })?;
    took.into_iter().flatten().for_each(|rtts| samples.add(name, rtts));
    Ok(())
}
