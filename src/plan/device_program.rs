//! cgroup v2 has no device files: a BPF program (BPF_PROG_TYPE_CGROUP_DEVICE) says yes or no.
//!
//! Its argument is `struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }`, where `access_type`
//! holds the device type in its lower and the access in its upper half (linux/bpf.h).

use super::devices::Rule;

const TYPE_BLOCK: i32 = 1;
const TYPE_CHARACTER: i32 = 2;
const ACCESS_MKNOD: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;
const ACCESS_ALL: i32 = ACCESS_MKNOD | ACCESS_READ | ACCESS_WRITE;

/// Registers: the result, the context and later a scratch value, then what the rules compare.
const R0: u8 = 0;
const R1: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// Operation codes (linux/bpf.h, instruction-set.rst).
const LOAD_WORD: u8 = 0x61;
const MOVE_NUMBER: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND32: u8 = 0x54;
const SHIFT_RIGHT32: u8 = 0x74;
const JUMP_UNLESS_NUMBER: u8 = 0x55;
const JUMP_UNLESS_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

/// `struct bpf_insn` in native byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    destination: u8,
    source: u8,
    offset: i16,
    number: i32,
}

impl Instruction {
    fn new(code: u8, destination: u8, source: u8, offset: i16, number: i32) -> Self {
        Self {
            code,
            destination,
            source,
            offset,
            number,
        }
    }

    fn bytes(self) -> [u8; 8] {
        let registers = if cfg!(target_endian = "big") {
            self.destination << 4 | self.source
        } else {
            self.source << 4 | self.destination
        };
        let [o0, o1] = self.offset.to_ne_bytes();
        let [n0, n1, n2, n3] = self.number.to_ne_bytes();
        [self.code, registers, o0, o1, n0, n1, n2, n3]
    }
}

/// The program that allows what one of `rules` allows, and nothing else.
pub(super) fn assemble(rules: &[Rule]) -> Vec<u8> {
    program(rules).into_iter().flat_map(Instruction::bytes).collect()
}

fn program(rules: &[Rule]) -> Vec<Instruction> {
    let mut out = vec![
        Instruction::new(LOAD_WORD, TYPE, R1, 0, 0),
        Instruction::new(AND32, TYPE, 0, 0, 0xffff),
        Instruction::new(LOAD_WORD, ACCESS, R1, 0, 0),
        Instruction::new(SHIFT_RIGHT32, ACCESS, 0, 0, 16),
        Instruction::new(LOAD_WORD, MAJOR, R1, 4, 0),
        Instruction::new(LOAD_WORD, MINOR, R1, 8, 0),
    ];
    for rule in rules {
        out.extend(block(rule));
    }
    out.push(Instruction::new(MOVE_NUMBER, R0, 0, 0, 0));
    out.push(Instruction::new(EXIT, 0, 0, 0, 0));
    out
}

/// One rule: every comparison that fails jumps behind its end.
fn block(rule: &Rule) -> Vec<Instruction> {
    let kind = if rule.character {
        TYPE_CHARACTER
    } else {
        TYPE_BLOCK
    };
    let access = rule.access.chars().fold(0, |bits, letter| {
        bits | match letter {
            'm' => ACCESS_MKNOD,
            'r' => ACCESS_READ,
            'w' => ACCESS_WRITE,
            _ => 0,
        }
    });
    let mut out = vec![Instruction::new(JUMP_UNLESS_NUMBER, TYPE, 0, 0, kind)];
    if access != ACCESS_ALL {
        // All that is asked for must be among what the rule gives.
        out.push(Instruction::new(MOVE_REGISTER, R1, ACCESS, 0, 0));
        out.push(Instruction::new(AND32, R1, 0, 0, access));
        out.push(Instruction::new(JUMP_UNLESS_REGISTER, R1, ACCESS, 0, 0));
    }
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(number) = number.and_then(|number| i32::try_from(number).ok()) {
            out.push(Instruction::new(JUMP_UNLESS_NUMBER, register, 0, 0, number));
        }
    }
    out.push(Instruction::new(MOVE_NUMBER, R0, 0, 0, 1));
    out.push(Instruction::new(EXIT, 0, 0, 0, 0));
    let end = out.len();
    for (at, instruction) in out.iter_mut().enumerate() {
        if matches!(instruction.code, JUMP_UNLESS_NUMBER | JUMP_UNLESS_REGISTER) {
            instruction.offset = i16::try_from(end - at - 1).unwrap_or(0);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation)]
    fn run(program: &[Instruction], kind: i32, access: i32, major: u32, minor: u32) -> u64 {
        let context = [(access << 16 | kind) as u32, major, minor];
        let mut registers = [0u64; 6];
        let mut at = 0usize;
        loop {
            let i = program[at];
            let (d, s) = (usize::from(i.destination), usize::from(i.source));
            at += 1;
            match i.code {
                LOAD_WORD => registers[d] = u64::from(context[i.offset as usize / 4]),
                MOVE_NUMBER => registers[d] = i.number as u64,
                MOVE_REGISTER => registers[d] = registers[s],
                AND32 => registers[d] = u64::from(registers[d] as u32 & i.number as u32),
                SHIFT_RIGHT32 => registers[d] = u64::from(registers[d] as u32 >> i.number),
                JUMP_UNLESS_NUMBER if registers[d] != i.number as u64 => at += i.offset as usize,
                JUMP_UNLESS_REGISTER if registers[d] != registers[s] => at += i.offset as usize,
                JUMP_UNLESS_NUMBER | JUMP_UNLESS_REGISTER => {}
                EXIT => return registers[0],
                other => panic!("unknown code {other:#x}"),
            }
        }
    }

    #[test]
    fn allows_exactly_what_the_rules_say() {
        let rule = |character, major, minor, access: &str| Rule {
            character,
            major,
            minor,
            access: access.into(),
        };
        let program = program(&[
            rule(true, None, None, "m"),
            rule(true, Some(1), Some(3), "rwm"),
            rule(true, Some(136), None, "rw"),
            rule(false, Some(8), Some(0), "r"),
        ]);
        let (block, char, m, r, w) = (
            TYPE_BLOCK,
            TYPE_CHARACTER,
            ACCESS_MKNOD,
            ACCESS_READ,
            ACCESS_WRITE,
        );
        for (kind, access, major, minor, want) in [
            (char, m, 42, 42, 1),
            (block, m, 42, 42, 0),
            (char, r | w, 1, 3, 1),
            (char, r, 1, 4, 0),
            (char, r | w, 136, 7, 1),
            (char, r | w | m, 136, 7, 0),
            (block, r, 8, 0, 1),
            (block, r | w, 8, 0, 0),
            (block, w, 8, 0, 0),
            (char, r, 8, 0, 0),
        ] {
            assert_eq!(
                run(&program, kind, access, major, minor),
                want,
                "{kind} {access} {major}:{minor}"
            );
        }
        assert_eq!(run(&super::program(&[]), char, r, 1, 3), 0, "deny by default");
    }

    #[test]
    fn instructions_have_eight_bytes() {
        let bytes = assemble(&[]);
        assert_eq!(bytes.len(), 8 * 8);
        #[cfg(target_endian = "little")]
        assert_eq!(
            &bytes[..8],
            [0x61, 0x12, 0, 0, 0, 0, 0, 0],
            "r2 = *(u32 *)(r1 + 0)"
        );
    }
}
