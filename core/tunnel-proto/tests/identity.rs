//! Whose a node's name is: tokens, Node objects, rotated keys, and who came first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use edgemesh_tunnel_proto::{
    Action, Address, CLOCK_SKEW, CONFLICT_HOLD, Claim, ClaimRefused, ConnId, Enrolment, IdentityPolicy,
    IdentitySpec, Input, LinkKind, PeerId, PeerRecord, Proof, Report, Sign, SignedRecord, SignedToken,
    Succession, Token, TokenError, TokenId, TunnelSpec, TunnelState,
};

use IdentityPolicy::{Off, Prefer, Require};

struct NoKey;

impl Sign for NoKey {
    fn sign(&self, body: Bytes) -> SignedRecord {
        SignedRecord { body, key: Bytes::new(), signature: Bytes::new() }
    }
}

/// When the tokens of the tables were made.
const MADE: u64 = 1_800_000_000;

fn token(id: u8, issued: u64, expires: Option<u64>, pinned: Option<&str>) -> Token {
    Token { id: TokenId([id; 16]), node: "a".into(), issued, expires, pinned: pinned.map(PeerId::new) }
}

/// The tokens of the tables, by a letter.
fn token_of(letter: &str) -> Result<Token, ClaimRefused> {
    match letter {
        "t" => Ok(token(1, MADE, Some(MADE + 3600), None)),
        "later" => Ok(token(2, MADE + 60, Some(MADE + 3600), None)),
        "same-second" => Ok(token(3, MADE, Some(MADE + 3600), None)),
        "pinned-x" => Ok(token(4, MADE, None, Some("x"))),
        "foreign" => Ok(Token { node: "b".into(), ..token(5, MADE, None, None) }),
        "forged" => Err(ClaimRefused::ForgedToken),
        other => panic!("no token {other}"),
    }
}

struct Stage {
    state: TunnelState,
    now: Instant,
    clock: u64,
    conns: BTreeMap<String, ConnId>,
    reports: Vec<(String, ClaimRefused)>,
}

impl Stage {
    fn new(policy: IdentityPolicy, enrolled: Vec<Enrolment>) -> Self {
        let now = Instant::now();
        let spec = TunnelSpec {
            node: Some("own".into()),
            peer: PeerId::new("me"),
            zone: None,
            version: "test".into(),
            relay: false,
            relays: Vec::new(),
            sequence: 1,
            seed: 1,
            identity: IdentitySpec { policy, proof: Proof::default(), enrolled },
        };
        let state = TunnelState::new(spec, Box::new(NoKey), now);
        Self { state, now, clock: MADE + 10, conns: BTreeMap::new(), reports: Vec::new() }
    }

    fn settle(&mut self) {
        self.state.handle_timeout(self.now);
        while let Some(action) = self.state.poll_action() {
            if let Action::Report(Report::NameConflict { refused, reason, .. }) = action {
                self.reports.push((refused.to_string(), reason));
            }
        }
    }

    /// One step: `x` claims `a`; `x t` with a token; `x<w` as the successor of `w`; `x=b` another name; `gone x`;
    /// `vouch x`; `vouch`; `clock N` seconds from [`MADE`]; `wait` for a name to be free.
    fn step(&mut self, step: &str) {
        let words: Vec<&str> = step.split(' ').collect();
        match words.as_slice() {
            ["gone", peer] => {
                let conn = self.conns.remove(*peer).expect("it is connected");
                self.state.handle(Input::Disconnected { conn }, self.now);
            }
            ["vouch", peers @ ..] => {
                let vouched = peers.iter().map(|peer| ("a".into(), PeerId::new(*peer))).collect();
                self.state.handle(Input::Mesh { nodes: BTreeSet::new(), vouched }, self.now);
            }
            ["clock", seconds] => {
                self.clock = MADE.saturating_add_signed(seconds.parse().expect("a number"));
            }
            ["wait"] => self.now += CONFLICT_HOLD,
            [claim, token @ ..] => {
                let (claim, node) = claim.split_once('=').unwrap_or((claim, "a"));
                let mut keys = claim.split('<');
                let peer = keys.next().expect("a peer");
                let record = PeerRecord {
                    node: Some(node.into()),
                    peer: PeerId::new(peer),
                    addresses: Vec::new(),
                    relays: Vec::new(),
                    zone: None,
                    sequence: 1,
                    version: "test".into(),
                    proof: Proof::default(),
                };
                let claim = Claim {
                    token: token.first().map(|letter| token_of(letter)),
                    former: keys.map(PeerId::new).collect(),
                    clock: self.clock,
                };
                let next = ConnId(self.conns.len() as u64 + 1);
                let known = self.conns.get(peer).copied();
                let conn = *self.conns.entry(peer.to_owned()).or_insert(next);
                if known.is_none() {
                    let input = Input::Connected {
                        conn,
                        peer: PeerId::new(peer),
                        kind: LinkKind::Direct,
                        address: Address::new("/ip4/192.0.2.1/tcp/20006"),
                        dial: None,
                    };
                    self.state.handle(input, self.now);
                }
                let signed = NoKey.sign(record.encode().expect("within the bounds"));
                self.state.handle(
                    Input::Record { conn, record: Box::new(record), signed, claim: Box::new(claim) },
                    self.now,
                );
            }
            [] => {}
        }
        self.settle();
    }
}

/// Plays steps and compares who speaks for `a`, who is refused, and why.
#[track_caller]
fn check(policy: IdentityPolicy, steps: &str, holder: Option<&str>, refused: &[(&str, ClaimRefused)]) {
    let mut stage = Stage::new(policy, Vec::new());
    steps.split(", ").for_each(|step| stage.step(step));
    let found = stage.state.peer_of("a").map(PeerId::as_str);
    assert_eq!(found, holder, "{policy:?}: {steps}");
    let conflicts: Vec<_> = stage.state.conflicts();
    let conflicts: Vec<_> = conflicts.iter().map(|it| (&*it.refused, it.reason)).collect();
    assert_eq!(conflicts, refused, "{policy:?}: {steps}");
    for (peer, reason) in refused {
        assert!(stage.reports.contains(&((*peer).to_owned(), *reason)), "told: {peer} {reason}");
        assert_eq!(stage.state.node_of(&PeerId::new(*peer)), None, "{steps}: {peer} speaks for nobody");
    }
}

#[test]
fn who_came_first() {
    for policy in [Prefer, Off] {
        check(policy, "x", Some("x"), &[]);
        check(policy, "x, y", Some("x"), &[("y", ClaimRefused::Duplicate)]);
        check(policy, "x, gone x, y", Some("x"), &[("y", ClaimRefused::Duplicate)]);
        check(policy, "x, gone x, y, wait", Some("y"), &[]);
        check(policy, "x=own", None, &[("x", ClaimRefused::OwnName)]);
    }
    check(Require, "x", None, &[("x", ClaimRefused::Unproven)]);
    check(Require, "x, y, gone x, wait", None, &[("y", ClaimRefused::Unproven)]);
}

#[test]
fn tokens() {
    for policy in [Prefer, Require] {
        check(policy, "x t", Some("x"), &[]);
        // Whoever was first without a proof gives way to one.
        let reason = ClaimRefused::ChangedKey;
        check(policy, "y, x t", Some("x"), &[("y", reason)]);
        check(policy, "x t, y", Some("x"), &[("y", reason)]);
        check(policy, "x t, gone x, y, wait", Some("x"), &[("y", reason)]);
        // A replay, also when the first one is away.
        check(policy, "x t, y t", Some("x"), &[("y", ClaimRefused::ReplayedToken)]);
        check(policy, "x t, gone x, wait, y t", Some("x"), &[("y", ClaimRefused::ReplayedToken)]);
        // A node that is set up anew gets a new token.
        check(policy, "x t, y later", Some("y"), &[("x", ClaimRefused::OutdatedToken)]);
        check(policy, "x later, y t", Some("x"), &[("y", ClaimRefused::OutdatedToken)]);
        check(policy, "x t, y same-second", Some("x"), &[("y", ClaimRefused::OutdatedToken)]);
        check(policy, "x pinned-x", Some("x"), &[]);
        check(policy, "y pinned-x", None, &[("y", ClaimRefused::PinnedElsewhere)]);
        check(policy, "y pinned-x, x pinned-x", Some("x"), &[("y", ClaimRefused::PinnedElsewhere)]);
        check(policy, "x foreign", None, &[("x", ClaimRefused::ForeignToken)]);
        check(policy, "x forged", None, &[("x", ClaimRefused::ForgedToken)]);
        check(policy, "x forged, x t", Some("x"), &[]);
    }
    check(Off, "x, y t", Some("x"), &[("y", ClaimRefused::Duplicate)]);
    check(Off, "x forged", Some("x"), &[]);
}

#[test]
fn time() {
    let after = format!("clock {}, x t", 3600 + CLOCK_SKEW + 1);
    check(Require, &after, None, &[("x", ClaimRefused::ExpiredToken)]);
    check(Prefer, &after, Some("x"), &[]);
    let just = format!("clock {}, x t", 3600 + CLOCK_SKEW);
    check(Require, &just, Some("x"), &[]);
    check(Require, "clock -1000000000, x t", Some("x"), &[]);
    // Who is known stays, whatever the clock says.
    check(Require, "x t, clock 90000, x t", Some("x"), &[]);
    check(Require, "x t, gone x, clock 90000, x t", Some("x"), &[]);
    // A clock that is behind learns from what the authority signed.
    let mut stage = Stage::new(Require, Vec::new());
    stage.clock = 0;
    stage.step("x t");
    let late = Token { node: "b".into(), ..token(9, MADE + 90_000, None, None) };
    let floor = Enrolment { node: "b".into(), owner: PeerId::new("z"), token: late.id, issued: late.issued };
    assert_eq!(stage.state.peer_of("a").map(PeerId::as_str), Some("x"));
    let mut stage = Stage::new(Require, vec![floor]);
    stage.clock = 0;
    stage.step("x t");
    assert_eq!(stage.state.conflicts()[0].reason, ClaimRefused::ExpiredToken);
}

#[test]
fn node_objects_outweigh_everything() {
    for policy in [Prefer, Require, Off] {
        check(policy, "vouch x, x", Some("x"), &[]);
        check(policy, "vouch x, y", Some("x"), &[("y", ClaimRefused::NotVouched)]);
        check(policy, "y t, vouch x", Some("x"), &[("y", ClaimRefused::NotVouched)]);
        check(policy, "x, vouch x, vouch y", Some("y"), &[("x", ClaimRefused::NotVouched)]);
        check(policy, "vouch x, y<x", Some("y"), &[]);
        check(policy, "vouch x, x, y<x", Some("y"), &[("x", ClaimRefused::FormerKey)]);
        check(policy, "vouch x, x, y<x, vouch y", Some("y"), &[("x", ClaimRefused::FormerKey)]);
    }
}

#[test]
fn rotated_keys() {
    for policy in [Prefer, Off] {
        check(policy, "x, y<x", Some("y"), &[("x", ClaimRefused::FormerKey)]);
        check(policy, "y<x, x", Some("y"), &[("x", ClaimRefused::FormerKey)]);
        check(policy, "x, gone x, y<x, gone y, wait, x", Some("y"), &[("x", ClaimRefused::FormerKey)]);
        check(policy, "x, z<y<x", Some("z"), &[("x", ClaimRefused::FormerKey)]);
        // The key of another node is no predecessor of this one's.
        check(policy, "x, y<w", Some("x"), &[("y", ClaimRefused::Duplicate)]);
    }
    for policy in [Prefer, Require] {
        check(policy, "x t, y<x t", Some("y"), &[("x", ClaimRefused::FormerKey)]);
        check(policy, "x pinned-x, y<x pinned-x", Some("y"), &[("x", ClaimRefused::FormerKey)]);
        check(policy, "x t, y<x", Some("y"), &[("x", ClaimRefused::FormerKey)]);
        // The first successor stays: the former key can name no second one.
        let both = [("w", ClaimRefused::ReplayedToken), ("x", ClaimRefused::FormerKey)];
        check(policy, "x t, y<x t, w<x t", Some("y"), &both);
    }
}

#[test]
fn enrolments_outlive_the_process() {
    let mut stage = Stage::new(Require, Vec::new());
    stage.step("x t");
    let kept = stage.state.take_enrolments().expect("something changed");
    assert_eq!(stage.state.take_enrolments(), None, "told once");
    let lines: Vec<String> = kept.iter().map(ToString::to_string).collect();
    let read: Vec<Enrolment> = lines.iter().map(|line| Enrolment::parse(line).expect("a line")).collect();
    assert_eq!(read, kept);
    let mut stage = Stage::new(Require, read);
    stage.now += Duration::from_secs(1);
    stage.step("y t");
    assert_eq!(stage.state.conflicts()[0].reason, ClaimRefused::ReplayedToken);
    stage.step("x t");
    assert_eq!(stage.state.node_of(&PeerId::new("x")).map(|node| &**node), Some("a"));
    for line in
        ["", "a x", "a x zz 1", "A x 01010101010101010101010101010101 1", &format!("{} more", lines[0])]
    {
        assert_eq!(Enrolment::parse(line), None, "{line:?}");
    }
}

#[test]
fn tokens_as_text_and_in_records() {
    for token in [token(1, MADE, None, None), token(2, MADE, Some(MADE + 1), Some("12D3KooWx"))] {
        let signed = SignedToken { body: token.encode().unwrap(), signature: Bytes::from_static(&[7; 64]) };
        let text = signed.to_string();
        assert_eq!(SignedToken::parse(&format!(" {text}\n")), Ok(signed.clone()));
        assert_eq!(signed.token(), Ok(token.clone()));
        for end in 0..text.len() {
            assert!(SignedToken::parse(&text[..end]).is_err(), "{end}");
        }
        assert_eq!(SignedToken::parse(&format!("{text}00")), Err(TokenError::Length));
        let link = Succession { key: Bytes::from_static(&[1; 36]), signature: Bytes::from_static(&[2; 64]) };
        let proof = Proof { token: Some(signed), former: vec![link; 4] };
        let many = |text: String| (0..40).map(|_| Address::new(text.clone())).collect::<Vec<_>>();
        let record = PeerRecord {
            node: Some("a".into()),
            peer: PeerId::new("12D3KooWx"),
            addresses: many(format!("/ip6/{}/tcp/1", "f".repeat(200))),
            relays: many(format!("/ip6/{}/tcp/1", "e".repeat(200))),
            zone: None,
            sequence: 1,
            version: "test".into(),
            proof,
        };
        let body = record.encode().expect("addresses give way to the proof");
        let read = PeerRecord::decode(&body).unwrap();
        assert_eq!(read.proof, record.proof);
        assert!(!read.addresses.is_empty() && !read.relays.is_empty());
        for end in 0..body.len() {
            assert!(PeerRecord::decode(&body[..end]).is_err(), "{end}");
        }
    }
    for (text, error) in [
        ("", TokenError::Text),
        ("edgemesh-join-", TokenError::Length),
        ("edgemesh-join-0", TokenError::Length),
        ("edgemesh-join-zz", TokenError::Text),
        ("edgemesh-join-0009", TokenError::Version),
        ("edgemesh-join-0001", TokenError::Length),
    ] {
        assert_eq!(SignedToken::parse(text), Err(error), "{text}");
    }
    let nameless = Token { node: "".into(), ..token(1, MADE, None, None) };
    assert_eq!(nameless.encode(), Err(TokenError::Field));
}
