//! Wires between two real devices, and namespaces made for them.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use edgemesh_net::netlink::rt::{Handle, LinkKind, Peer, Prefix};
use edgemesh_net::netns::{self, Kind, Namespace};
use edgemesh_net::wire::{Impairment, Port, Wires};

/// Two namespaces with 10.9.0.1 and 10.9.0.2, joined by a wire.
struct Bench {
    near: Namespace,
    far: Namespace,
    _middle: Namespace,
    wires: Wires,
}

fn link(rt: &mut Handle, name: &str) -> io::Result<u32> {
    let link = rt.link(name).map_err(io::Error::other)?;
    link.map(|link| link.index).ok_or_else(|| io::Error::other(format!("no device {name}")))
}

fn bench(impairment: Impairment) -> Bench {
    let [near, far, middle] = [(); 3].map(|()| Namespace::new_net().expect("namespace"));
    for (end, device, address) in [(&near, "a", [10, 9, 0, 1]), (&far, "b", [10, 9, 0, 2])] {
        middle
            .run(|| {
                let mut rt = Handle::open().map_err(io::Error::other)?;
                let peer = Peer { name: "eth0", netns: Some(end.as_fd()) };
                rt.add_link(device, LinkKind::Veth(peer)).map_err(io::Error::other)?;
                let index = link(&mut rt, device)?;
                rt.set_up(index, true).map_err(io::Error::other)
            })
            .expect("pair");
        end.run(|| {
            let mut rt = Handle::open().map_err(io::Error::other)?;
            let index = link(&mut rt, "eth0")?;
            rt.set_up(index, true).map_err(io::Error::other)?;
            rt.add_address(index, Prefix::new(address, 24), true).map_err(io::Error::other)
        })
        .expect("address");
    }
    let port = |device: &str| {
        let open = || Port::open(link(&mut Handle::open().map_err(io::Error::other)?, device)?);
        middle.run(open).expect("port")
    };
    let wires = Wires::start(vec![(port("a"), port("b"), impairment)], 1).expect("wires");
    Bench { near, far, _middle: middle, wires }
}

fn socket(net: &Namespace, address: &str) -> UdpSocket {
    let socket = net.run(|| UdpSocket::bind((address, 9000))).expect("socket");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
    socket
}

#[test]
fn datagrams_of_every_size_pass_late_enough() {
    if !netns::in_fresh_namespaces("datagrams_of_every_size_pass_late_enough") {
        return;
    }
    let delay = Duration::from_millis(15);
    let bench = bench(Impairment { delay, ..Impairment::default() });
    let (near, far) = (socket(&bench.near, "10.9.0.1"), socket(&bench.far, "10.9.0.2"));
    for size in [0, 1, 1472, 1473, 20_480, 65_507] {
        let sent: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        let began = Instant::now();
        near.send_to(&sent, ("10.9.0.2", 9000)).expect("send");
        let mut buffer = vec![0; 65_536];
        let (length, _) = far.recv_from(&mut buffer).expect("receive");
        assert!(buffer[..length] == sent, "{size} bytes arrive as they were");
        assert!(began.elapsed() >= delay, "{size} bytes");
    }
    let counters = bench.wires.counters(0);
    assert!(counters.forwarded > 6 && counters.lost == 0 && counters.overflowed == 0, "{counters:?}");
}

#[test]
fn a_cut_swallows_what_is_under_way() {
    if !netns::in_fresh_namespaces("a_cut_swallows_what_is_under_way") {
        return;
    }
    let bench = bench(Impairment { delay: Duration::from_millis(50), ..Impairment::default() });
    let (near, far) = (socket(&bench.near, "10.9.0.1"), socket(&bench.far, "10.9.0.2"));
    near.send_to(b"before", ("10.9.0.2", 9000)).expect("send");
    let mut buffer = [0; 16];
    let (length, _) = far.recv_from(&mut buffer).expect("receive");
    assert_eq!(&buffer[..length], b"before");

    near.send_to(b"under way", ("10.9.0.2", 9000)).expect("send");
    bench.wires.cut(0, true);
    assert!(bench.wires.is_cut(0));
    far.set_read_timeout(Some(Duration::from_millis(200))).expect("timeout");
    assert!(far.recv_from(&mut buffer).is_err(), "nothing comes through a cut");
    assert!(bench.wires.counters(0).cut > 0);

    bench.wires.cut(0, false);
    bench.wires.set(0, Impairment::default());
    far.set_read_timeout(Some(Duration::from_secs(5))).expect("timeout");
    near.send_to(b"after", ("10.9.0.2", 9000)).expect("send");
    let (length, _) = far.recv_from(&mut buffer).expect("receive");
    assert_eq!(&buffer[..length], b"after");
}

#[test]
fn loss_is_drawn_from_the_seed() {
    if !netns::in_fresh_namespaces("loss_is_drawn_from_the_seed") {
        return;
    }
    let bench = bench(Impairment::default());
    let (near, far) = (socket(&bench.near, "10.9.0.1"), socket(&bench.far, "10.9.0.2"));
    let mut buffer = [0; 16];
    // Neighbours know each other before frames are lost.
    near.send_to(b"hello", ("10.9.0.2", 9000)).expect("send");
    far.recv_from(&mut buffer).expect("receive");
    bench.wires.set(0, Impairment { loss: 0.5, ..Impairment::default() });
    for number in 0..200u32 {
        near.send_to(&number.to_be_bytes(), ("10.9.0.2", 9000)).expect("send");
    }
    bench.wires.set(0, Impairment { loss: 0.5, ..Impairment::default() });
    far.set_read_timeout(Some(Duration::from_millis(200))).expect("timeout");
    let mut came = 0;
    while far.recv_from(&mut buffer).is_ok() {
        came += 1;
    }
    // Half of 200, give or take five standard deviations of seven.
    assert!((65..=135).contains(&came), "{came} of 200 came");
}

#[test]
fn processes_are_isolated() {
    let run = |isolation: netns::Isolation, script: &str| {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script]);
        let output = isolation.apply(&mut command).output().expect("sh");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let fresh = netns::Isolation::new().fresh(&[Kind::Net, Kind::Pid, Kind::Mount]).fresh_user_if_needed();
    let own = std::fs::read_link("/proc/self/ns/net").expect("own").display().to_string();
    assert_ne!(run(fresh.clone().die_with_parent(), "readlink /proc/self/ns/net"), own);
    assert_eq!(run(fresh, "id -u"), "0");
    assert_eq!(run(netns::Isolation::new().new_session(), "readlink /proc/self/ns/net"), own);
    if netns::forbidden().is_some() {
        panic!("namespaces could be made, and are said to be forbidden");
    }
}
