use super::asm::{Assembler, Call, FP, Program, Reg};
use super::{END_LEN, Maps};
use crate::Family;

/// Fields of `struct bpf_sock_addr` (`linux/bpf.h`), by their offsets.
pub mod context {
    /// The IPv4 address.
    pub const IP4: i16 = 4;
    /// The IPv6 address.
    pub const IP6: i16 = 8;
    /// The port, in the network's order.
    pub const PORT: i16 = 24;
    /// The transport protocol.
    pub const PROTOCOL: i16 = 36;
    /// Bytes of all of it.
    pub const LEN: usize = 72;
}

const TCP: i32 = 6;
/// Words of an address, and the one that an IPv4 address is.
const ADDRESS_WORDS: i16 = 4;
const V4_WORD: i16 = 3;
const WORD: i16 = 4;
const WORDS: i16 = END_LEN as i16 / WORD;

/// The context lies here between calls, which leave registers from 6 on alone.
const CTX: Reg = 6;

/// Where things lie on the stack: the destination, the key of an endpoint, both ends, the socket's cookie.
const ASKED: i16 = -20;
const SLOT: i16 = -28;
const ENDS: i16 = -72;
const COOKIE: i16 = -80;

/// Puts an endpoint in place of a frontend that a socket of this network namespace connects to.
pub fn rewrite(family: Family, maps: Maps, namespace: u64) -> Program {
    let mut asm = Assembler::default();
    asm.mov(CTX, 1)
        .call(Call::GetNetnsCookie)
        .load_imm64(1, namespace)
        .end_unless_equal(0, 1)
        .load32(1, CTX, context::PROTOCOL)
        .end_unless(1, TCP);
    read_end(&mut asm, family, ASKED);
    asm.load_map(1, maps.frontends).address(2, ASKED).call(Call::MapLookupElem).end_if(0, 0);
    asm.load32(7, 0, 0).load32(8, 0, WORD).end_if(8, 0);
    asm.call(Call::GetPrandomU32).mod32(0, 8).store32(FP, SLOT, 7).store32(FP, SLOT + WORD, 0);
    asm.load_map(1, maps.backends).address(2, SLOT).call(Call::MapLookupElem).end_if(0, 0).mov(7, 0);
    write_end(&mut asm, family, 7, 0);
    for word in 0..WORDS {
        let at = word * WORD;
        asm.load32(1, FP, ASKED + at).store32(FP, ENDS + at, 1);
        asm.load32(1, 7, at).store32(FP, ENDS + WORDS * WORD + at, 1);
    }
    asm.mov(1, CTX).call(Call::GetSocketCookie).store64(FP, COOKIE, 0);
    asm.load_map(1, maps.peers).address(2, COOKIE).address(3, ENDS).mov_imm(4, 0).call(Call::MapUpdateElem);
    asm.finish()
}

/// Tells a client that asks for its peer the frontend that it connected to. Who has connected elsewhere since is told the
/// truth.
pub fn peer_name(family: Family, maps: Maps) -> Program {
    let mut asm = Assembler::default();
    asm.mov(CTX, 1).call(Call::GetSocketCookie).store64(FP, -8, 0);
    asm.load_map(1, maps.peers).address(2, -8).call(Call::MapLookupElem).end_if(0, 0).mov(7, 0);
    for (field, at) in fields(family) {
        asm.load32(1, CTX, field).load32(2, 7, WORDS * WORD + at).end_unless_equal(1, 2);
    }
    write_end(&mut asm, family, 7, 0);
    asm.finish()
}

/// The context's fields of an end, and where an end has them.
fn fields(family: Family) -> Vec<(i16, i16)> {
    let mut fields: Vec<(i16, i16)> = match family {
        Family::V4 => vec![(context::IP4, V4_WORD * WORD)],
        Family::V6 => (0..ADDRESS_WORDS).map(|word| (context::IP6 + word * WORD, word * WORD)).collect(),
    };
    fields.push((context::PORT, ADDRESS_WORDS * WORD));
    fields
}

fn read_end(asm: &mut Assembler, family: Family, at: i16) {
    if family == Family::V4 {
        asm.store32_imm(FP, at, 0).store32_imm(FP, at + WORD, 0);
        asm.store32_imm(FP, at + 2 * WORD, 0xffff_u32.to_be().cast_signed());
    }
    for (field, word) in fields(family) {
        asm.load32(1, CTX, field).store32(FP, at + word, 1);
    }
}

fn write_end(asm: &mut Assembler, family: Family, from: Reg, at: i16) {
    for (field, word) in fields(family) {
        asm.load32(1, from, at + word).store32(CTX, field, 1);
    }
}
