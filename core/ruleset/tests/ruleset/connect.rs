//! The programs, run by an interpreter of what they consist of.

use std::collections::HashMap;
use std::net::SocketAddr;

use edgemesh_api::Protocol;
use edgemesh_mesh::Frontend;
use edgemesh_ruleset::Family;
use edgemesh_ruleset::connect::{
    ADD_IMM, CALL, Call, EXIT, FP, Insn, JEQ_IMM, JNE, JNE_IMM, LOAD_IMM64, LOAD32, MAP_FD, MOD32, MOV,
    MOV_IMM, Maps, Program, STORE32, STORE32_IMM, STORE64, Target, context, end, peer_name, rewrite, slot,
};

use crate::fixture::compile;

const MAPS: Maps = Maps { frontends: 11, backends: 12, peers: 13 };
const HERE: u64 = 0x1_2345_6789;
const COOKIE: u64 = 77;

/// Where the machine's memory is: the context, the stack, and what look-ups found.
const CONTEXT: u64 = 0x1000;
const STACK: u64 = 0x2000;
const STACK_LEN: u64 = 512;
const FOUND: u64 = 0x3000;

/// A kernel with three maps and one socket.
struct Machine {
    context: Vec<u8>,
    stack: Vec<u8>,
    found: Vec<u8>,
    maps: HashMap<u64, HashMap<Vec<u8>, Vec<u8>>>,
    namespace: u64,
    random: u32,
    reg: [u64; 11],
}

impl Machine {
    fn new() -> Self {
        Self {
            context: vec![0; context::LEN],
            stack: vec![0; STACK_LEN as usize],
            found: Vec::new(),
            maps: [11, 12, 13].map(|map| (map, HashMap::new())).into(),
            namespace: HERE,
            random: 0,
            reg: [0; 11],
        }
    }

    fn leads(mut self, number: u32, frontend: &str, backends: &[&str]) -> Self {
        let target = Target { number, count: backends.len() as u32 };
        self.map(11).insert(end(addr(frontend)).to_vec(), target.bytes().to_vec());
        for (at, backend) in (0..).zip(backends) {
            self.map(12).insert(slot(number, at).to_vec(), end(addr(backend)).to_vec());
        }
        self
    }

    fn map(&mut self, map: u64) -> &mut HashMap<Vec<u8>, Vec<u8>> {
        self.maps.get_mut(&map).expect("a map")
    }

    /// What the program makes of an address.
    fn run(&mut self, program: &Program, protocol: u32, to: SocketAddr) -> SocketAddr {
        let word = |at: i16| at as usize..at as usize + 4;
        let bytes = end(to);
        self.context[word(context::PROTOCOL)].copy_from_slice(&protocol.to_ne_bytes());
        self.context[word(context::PORT)].copy_from_slice(&bytes[16..]);
        let ip = if to.is_ipv4() { (context::IP4, 12) } else { (context::IP6, 0) };
        let at = ip.0 as usize;
        self.context[at..at + 16 - ip.1].copy_from_slice(&bytes[ip.1..16]);
        self.reg = [0; 11];
        self.reg[1] = CONTEXT;
        self.reg[usize::from(FP)] = STACK + STACK_LEN;
        assert_eq!(self.execute(&program.insns), 1, "a connection was forbidden");
        let port = u32::from_ne_bytes(self.context[word(context::PORT)].try_into().expect("a word"));
        let port = u16::from_be(u16::try_from(port).expect("a port"));
        let octets = &self.context[at..at + 16 - ip.1];
        match <[u8; 4]>::try_from(octets) {
            Ok(v4) => (v4, port).into(),
            Err(_) => (<[u8; 16]>::try_from(octets).expect("an address"), port).into(),
        }
    }

    fn execute(&mut self, insns: &[Insn]) -> u64 {
        let mut at = 0;
        loop {
            let Insn { code, dst, src, off, imm } = insns[at];
            let (dst, src) = (usize::from(dst), usize::from(src));
            let jump = |taken: bool| at + 1 + if taken { usize::try_from(off).expect("forward") } else { 0 };
            at = match code {
                LOAD32 => {
                    let bytes = self.memory(self.reg[src], off, 4).to_vec();
                    self.reg[dst] = u32::from_ne_bytes(bytes.try_into().expect("a word")).into();
                    at + 1
                }
                STORE32 | STORE32_IMM => {
                    let value = if code == STORE32 { self.reg[src] as u32 } else { imm.cast_unsigned() };
                    self.memory(self.reg[dst], off, 4).copy_from_slice(&value.to_ne_bytes());
                    at + 1
                }
                STORE64 => {
                    let value = self.reg[src].to_ne_bytes();
                    self.memory(self.reg[dst], off, 8).copy_from_slice(&value);
                    at + 1
                }
                LOAD_IMM64 => {
                    assert!(src == 0 || src == usize::from(MAP_FD));
                    let high = u64::from(insns[at + 1].imm.cast_unsigned());
                    self.reg[dst] = high << 32 | u64::from(imm.cast_unsigned());
                    at + 2
                }
                MOV => {
                    self.reg[dst] = self.reg[src];
                    at + 1
                }
                MOV_IMM => {
                    self.reg[dst] = i64::from(imm).cast_unsigned();
                    at + 1
                }
                ADD_IMM => {
                    self.reg[dst] = self.reg[dst].wrapping_add_signed(imm.into());
                    at + 1
                }
                MOD32 => {
                    self.reg[dst] = (self.reg[dst] as u32 % self.reg[src] as u32).into();
                    at + 1
                }
                JEQ_IMM => jump(self.reg[dst] == i64::from(imm).cast_unsigned()),
                JNE_IMM => jump(self.reg[dst] != i64::from(imm).cast_unsigned()),
                JNE => jump(self.reg[dst] != self.reg[src]),
                CALL => {
                    self.call(imm);
                    at + 1
                }
                EXIT => return self.reg[0],
                other => panic!("{other:#x} is no instruction"),
            };
        }
    }

    fn memory(&mut self, base: u64, off: i16, len: usize) -> &mut [u8] {
        let address = base.wrapping_add_signed(off.into());
        let (memory, start) = match address & 0xf000 {
            CONTEXT => (&mut self.context, CONTEXT),
            STACK => (&mut self.stack, STACK),
            _ => (&mut self.found, FOUND),
        };
        let at = (address - start) as usize;
        assert_eq!(at % 4, 0, "the kernel wants words where words are");
        &mut memory[at..at + len]
    }

    fn call(&mut self, number: i32) {
        let [_, map, key, value, ..] = self.reg;
        let lengths = HashMap::from([(11, (20, 8)), (12, (8, 20)), (13, (8, 40))]);
        self.reg[0] = match number {
            it if it == Call::GetNetnsCookie as i32 => self.namespace,
            it if it == Call::GetSocketCookie as i32 => COOKIE,
            // What is above 32 bits is not to matter.
            it if it == Call::GetPrandomU32 as i32 => u64::from(self.random) | 1 << 40,
            it if it == Call::MapLookupElem as i32 => {
                let key = self.memory(key, 0, lengths[&map].0).to_vec();
                match self.map(map).get(&key).cloned() {
                    Some(value) => {
                        let at = self.found.len() as u64;
                        self.found.extend(value);
                        FOUND + at
                    }
                    None => 0,
                }
            }
            it if it == Call::MapUpdateElem as i32 => {
                let (key_len, len) = lengths[&map];
                let (key, value) =
                    (self.memory(key, 0, key_len).to_vec(), self.memory(value, 0, len).to_vec());
                self.map(map).insert(key, value);
                0
            }
            other => panic!("there is no function {other}"),
        };
        // A call leaves nothing in these.
        self.reg[1..6].fill(0xdead);
    }
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn family(addr: &SocketAddr) -> Family {
    Family::of(addr.ip())
}

const TCP: u32 = 6;

#[test]
fn a_connection_to_a_frontend_goes_to_one_of_its_endpoints() {
    let mut machine = Machine::new()
        .leads(1, "10.96.0.1:80", &["10.1.0.1:8080", "10.1.0.2:8081"])
        .leads(2, "[fd00:96::1]:80", &["[fd00:1::1]:8080"])
        .leads(3, "10.96.0.9:80", &[]);
    let cases = [
        (TCP, 0, HERE, "10.96.0.1:80", "10.1.0.1:8080"),
        (TCP, 1, HERE, "10.96.0.1:80", "10.1.0.2:8081"),
        (TCP, 4, HERE, "10.96.0.1:80", "10.1.0.1:8080"),
        (TCP, 7, HERE, "[fd00:96::1]:80", "[fd00:1::1]:8080"),
        (TCP, 3, HERE, "[::ffff:10.96.0.1]:80", "[::ffff:10.1.0.2]:8081"),
        // Another port, address, protocol and network namespace; nobody behind it.
        (TCP, 0, HERE, "10.96.0.1:81", "10.96.0.1:81"),
        (TCP, 0, HERE, "10.96.0.2:80", "10.96.0.2:80"),
        (17, 0, HERE, "10.96.0.1:80", "10.96.0.1:80"),
        (TCP, 0, HERE + (1 << 32), "10.96.0.1:80", "10.96.0.1:80"),
        (TCP, 0, HERE, "10.96.0.9:80", "10.96.0.9:80"),
    ];
    for (protocol, random, namespace, to, expected) in cases {
        (machine.random, machine.namespace) = (random, namespace);
        machine.map(13).clear();
        let to = addr(to);
        let program = rewrite(family(&to), MAPS, HERE);
        let got = machine.run(&program, protocol, to);
        assert_eq!(got, addr(expected), "to {to}\n{program}");
        // The client is told what it asked for, and only while it is connected to that.
        let named = machine.run(&peer_name(family(&to), MAPS), protocol, got);
        assert_eq!(named, to);
        let elsewhere = SocketAddr::new(got.ip(), got.port() + 1);
        assert_eq!(machine.run(&peer_name(family(&to), MAPS), protocol, elsewhere), elsewhere);
    }
}

/// Between two changes a program may hold a target whose endpoints are gone: the rules take that connection.
#[test]
fn a_target_without_its_endpoints_is_left_to_the_rules() {
    let mut machine = Machine::new().leads(1, "10.96.0.1:80", &["10.1.0.1:8080"]);
    machine.map(12).clear();
    let to = addr("10.96.0.1:80");
    assert_eq!(machine.run(&rewrite(Family::V4, MAPS, HERE), TCP, to), to);
    assert!(machine.map(13).is_empty());
}

#[test]
fn instructions_are_encoded_as_the_kernel_reads_them() {
    let insn = Insn { code: STORE32, dst: 10, src: 1, off: -20, imm: 0 };
    let registers = if cfg!(target_endian = "little") { 0x1a } else { 0xa1 };
    let [low, high] = (-20_i16).to_ne_bytes();
    assert_eq!(insn.encode(), [0x63, registers, low, high, 0, 0, 0, 0]);
    let program = rewrite(Family::V6, MAPS, HERE);
    assert_eq!(program.encode().len(), program.insns.len() * 8);
}

#[test]
fn only_what_the_kernel_carries_alone_is_replaced() {
    let head = "route 10.1.0.0/24 pods\n";
    let cases = [
        ("svc a 10.96.0.1\nport 80/tcp\nep 10.1.0.1:80 @here", "10.96.0.1:80/tcp", Ok(1)),
        ("svc a 10.96.0.1\nport 80/udp\nep 10.1.0.1:80 @here", "10.96.0.1:80/udp", Err("only TCP is")),
        (
            "svc a 10.96.0.1 affinity\nport 80/tcp\nep 10.1.0.1:80 @here",
            "10.96.0.1:80/tcp",
            Err("its clients have sessions"),
        ),
        (
            "path there relayed\nsvc a 10.96.0.1\nport 80/tcp\nep 10.1.0.1:80 @here\nep 10.9.0.1:80 @there",
            "10.96.0.1:80/tcp",
            Err("not all of its connections are the kernel's"),
        ),
        ("", "10.96.0.1:80/tcp", Err("not all of its connections are the kernel's")),
    ];
    for (fixture, frontend, expected) in cases {
        let ruleset = compile(&format!("{head}{fixture}"));
        let (at, protocol) = frontend.split_once('/').expect("a protocol");
        let protocol = if protocol == "tcp" { Protocol::Tcp } else { Protocol::Udp };
        let frontend = Frontend { ip: addr(at).ip(), port: addr(at).port(), protocol };
        let got = ruleset.at_connect(&frontend).map(<[_]>::len).map_err(|left| left.as_str());
        assert_eq!(got, expected, "{fixture}");
    }
}
