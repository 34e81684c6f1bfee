//! BPF instructions (RFC 9669), as many as the programs here need.

use std::fmt;

/// A register; r10 points behind the stack.
pub type Reg = u8;

/// The stack's end.
pub const FP: Reg = 10;

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    /// Class, operation and source.
    pub code: u8,
    /// Destination register.
    pub dst: Reg,
    /// Source register.
    pub src: Reg,
    /// Offset of memory, or of a jump.
    pub off: i16,
    /// Immediate value.
    pub imm: i32,
}

impl Insn {
    /// As the kernel reads it, in the byte order of this machine.
    pub fn encode(self) -> [u8; 8] {
        let registers =
            if cfg!(target_endian = "little") { self.dst | self.src << 4 } else { self.dst << 4 | self.src };
        let [off0, off1] = self.off.to_ne_bytes();
        let [imm0, imm1, imm2, imm3] = self.imm.to_ne_bytes();
        [self.code, registers, off0, off1, imm0, imm1, imm2, imm3]
    }
}

/// `BPF_LDX | BPF_MEM` of 4 and 8 bytes.
pub const LOAD32: u8 = 0x61;
/// `BPF_STX | BPF_MEM` of 4 bytes.
pub const STORE32: u8 = 0x63;
/// `BPF_STX | BPF_MEM` of 8 bytes.
pub const STORE64: u8 = 0x7b;
/// `BPF_ST | BPF_MEM` of 4 bytes.
pub const STORE32_IMM: u8 = 0x62;
/// `BPF_LD | BPF_IMM | BPF_DW`; takes two instructions.
pub const LOAD_IMM64: u8 = 0x18;
/// `BPF_ALU64 | BPF_MOV | BPF_X`.
pub const MOV: u8 = 0xbf;
/// `BPF_ALU64 | BPF_MOV | BPF_K`.
pub const MOV_IMM: u8 = 0xb7;
/// `BPF_ALU64 | BPF_ADD | BPF_K`.
pub const ADD_IMM: u8 = 0x07;
/// `BPF_ALU | BPF_MOD | BPF_X`, of 32 bits.
pub const MOD32: u8 = 0x9c;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
pub const JEQ_IMM: u8 = 0x15;
/// `BPF_JMP | BPF_JNE | BPF_K`.
pub const JNE_IMM: u8 = 0x55;
/// `BPF_JMP | BPF_JNE | BPF_X`.
pub const JNE: u8 = 0x5d;
/// `BPF_JMP | BPF_CALL`.
pub const CALL: u8 = 0x85;
/// `BPF_JMP | BPF_EXIT`.
pub const EXIT: u8 = 0x95;

/// In the source register of [`LOAD_IMM64`]: the value is a descriptor of a map (`BPF_PSEUDO_MAP_FD`).
pub const MAP_FD: Reg = 1;

/// Functions of the kernel that programs call, by its numbers (`linux/bpf.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the kernel's own names")]
pub enum Call {
    MapLookupElem = 1,
    MapUpdateElem = 2,
    GetPrandomU32 = 7,
    GetSocketCookie = 46,
    GetNetnsCookie = 122,
}

/// A program whose jumps all lead to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Assembler {
    insns: Vec<Insn>,
    jumps: Vec<usize>,
}

impl Assembler {
    fn put(&mut self, code: u8, dst: Reg, src: Reg, off: i16, imm: i32) -> &mut Self {
        self.insns.push(Insn { code, dst, src, off, imm });
        self
    }

    pub(super) fn mov(&mut self, dst: Reg, src: Reg) -> &mut Self {
        self.put(MOV, dst, src, 0, 0)
    }

    pub(super) fn mov_imm(&mut self, dst: Reg, imm: i32) -> &mut Self {
        self.put(MOV_IMM, dst, 0, 0, imm)
    }

    pub(super) fn address(&mut self, dst: Reg, off: i16) -> &mut Self {
        self.mov(dst, FP).put(ADD_IMM, dst, 0, 0, off.into())
    }

    pub(super) fn load32(&mut self, dst: Reg, src: Reg, off: i16) -> &mut Self {
        self.put(LOAD32, dst, src, off, 0)
    }

    pub(super) fn store32(&mut self, dst: Reg, off: i16, src: Reg) -> &mut Self {
        self.put(STORE32, dst, src, off, 0)
    }

    pub(super) fn store64(&mut self, dst: Reg, off: i16, src: Reg) -> &mut Self {
        self.put(STORE64, dst, src, off, 0)
    }

    pub(super) fn store32_imm(&mut self, dst: Reg, off: i16, imm: i32) -> &mut Self {
        self.put(STORE32_IMM, dst, 0, off, imm)
    }

    pub(super) fn load_imm64(&mut self, dst: Reg, value: u64) -> &mut Self {
        let [low, high] = [value as u32, (value >> 32) as u32].map(u32::cast_signed);
        self.put(LOAD_IMM64, dst, 0, 0, low).put(0, 0, 0, 0, high)
    }

    pub(super) fn load_map(&mut self, dst: Reg, fd: i32) -> &mut Self {
        self.put(LOAD_IMM64, dst, MAP_FD, 0, fd).put(0, 0, 0, 0, 0)
    }

    pub(super) fn mod32(&mut self, dst: Reg, src: Reg) -> &mut Self {
        self.put(MOD32, dst, src, 0, 0)
    }

    pub(super) fn call(&mut self, call: Call) -> &mut Self {
        self.put(CALL, 0, 0, 0, call as i32)
    }

    /// To the end if the register is that.
    pub(super) fn end_if(&mut self, reg: Reg, imm: i32) -> &mut Self {
        self.jumps.push(self.insns.len());
        self.put(JEQ_IMM, reg, 0, 0, imm)
    }

    /// To the end unless the register is that.
    pub(super) fn end_unless(&mut self, reg: Reg, imm: i32) -> &mut Self {
        self.jumps.push(self.insns.len());
        self.put(JNE_IMM, reg, 0, 0, imm)
    }

    /// To the end unless the registers are equal.
    pub(super) fn end_unless_equal(&mut self, reg: Reg, other: Reg) -> &mut Self {
        self.jumps.push(self.insns.len());
        self.put(JNE, reg, other, 0, 0)
    }

    /// The end: the call is allowed, with what the program wrote.
    pub(super) fn finish(mut self) -> Program {
        let end = self.insns.len();
        for at in self.jumps {
            // Jumps count from the next instruction; a program has far fewer than an offset can span.
            self.insns[at].off = i16::try_from(end - at - 1).unwrap_or(i16::MAX);
        }
        self.insns.push(Insn { code: MOV_IMM, dst: 0, src: 0, off: 0, imm: 1 });
        self.insns.push(Insn { code: EXIT, dst: 0, src: 0, off: 0, imm: 0 });
        Program { insns: self.insns }
    }
}

/// A program of BPF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its instructions.
    pub insns: Vec<Insn>,
}

impl Program {
    /// As the kernel reads it.
    pub fn encode(&self) -> Vec<u8> {
        self.insns.iter().flat_map(|insn| insn.encode()).collect()
    }
}

/// One line for each instruction.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut high = false;
        for (at, Insn { code, dst, src, off, imm }) in self.insns.iter().enumerate() {
            write!(f, "{at:3} ")?;
            let to = || i64::try_from(at).unwrap_or_default() + i64::from(*off) + 1;
            match *code {
                _ if high => writeln!(f, "  high {imm:#x}")?,
                LOAD32 => writeln!(f, "r{dst} = u32 [r{src}{off:+}]")?,
                STORE32 => writeln!(f, "u32 [r{dst}{off:+}] = r{src}")?,
                STORE64 => writeln!(f, "u64 [r{dst}{off:+}] = r{src}")?,
                STORE32_IMM => writeln!(f, "u32 [r{dst}{off:+}] = {imm:#x}")?,
                LOAD_IMM64 if *src == MAP_FD => writeln!(f, "r{dst} = map {imm}")?,
                LOAD_IMM64 => writeln!(f, "r{dst} = low {imm:#x}")?,
                MOV => writeln!(f, "r{dst} = r{src}")?,
                MOV_IMM => writeln!(f, "r{dst} = {imm}")?,
                ADD_IMM => writeln!(f, "r{dst} += {imm}")?,
                MOD32 => writeln!(f, "w{dst} %= w{src}")?,
                JEQ_IMM => writeln!(f, "if r{dst} == {imm} goto {}", to())?,
                JNE_IMM => writeln!(f, "if r{dst} != {imm} goto {}", to())?,
                JNE => writeln!(f, "if r{dst} != r{src} goto {}", to())?,
                CALL => writeln!(f, "call {imm}")?,
                EXIT => writeln!(f, "exit")?,
                other => writeln!(f, "{other:#x}")?,
            }
            high = *code == LOAD_IMM64;
        }
        Ok(())
    }
}
