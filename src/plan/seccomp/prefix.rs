//! Instructions in front of libseccomp's program, for what libseccomp cannot say.
//!
//! - System calls newer than the linked library, by number.
//! - `socketcall` of 32-bit programs: its arguments are in memory, so a profile that filters the families of
//!   `socket` would be walked around by it. It is denied unless the profile names it.
//! - System calls newer than every table get ENOSYS, not the profile's error: programs then use an older one.

use libseccomp::ScmpArch;

/// Offsets in `struct seccomp_data` (linux/seccomp.h).
const NUMBER: u32 = 0;
const ARCH: u32 = 4;

/// Operation codes of classic BPF (linux/bpf_common.h).
const LOAD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

/// i386's `socketcall`.
const SOCKETCALL: u32 = 102;
/// linux/audit.h.
pub(super) const AUDIT_ARCH_I386: u32 = 0x4000_0003;
pub(super) const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
pub(super) const AUDIT_ARCH_AARCH64: u32 = 0xc000_00b7;
/// x32 numbers have this bit, under x86-64's architecture value.
const X32: u32 = 0x4000_0000;
/// SECCOMP_RET_ERRNO with ENOSYS.
pub(super) const RETURN_ENOSYS: u32 = 0x0005_0000 | 38;

/// What goes in front.
#[derive(Debug, Default)]
pub(super) struct Prefix {
    /// Numbers and what the filter returns for them.
    pub numbers: Vec<(u32, u32)>,
    /// What `socketcall` returns, if it is to be stopped here.
    pub socketcall: Option<u32>,
    /// Numbers above this are ENOSYS.
    pub newest: Option<u32>,
}

/// `struct sock_filter` in native byte order.
fn instruction(code: u16, yes: u8, no: u8, value: u32) -> [u8; 8] {
    let [c0, c1] = code.to_ne_bytes();
    let [v0, v1, v2, v3] = value.to_ne_bytes();
    [c0, c1, yes, no, v0, v1, v2, v3]
}

/// The audit value of an architecture that this prefix handles.
fn audit(arch: ScmpArch) -> Option<u32> {
    match arch {
        ScmpArch::X8664 => Some(AUDIT_ARCH_X86_64),
        ScmpArch::X86 => Some(AUDIT_ARCH_I386),
        ScmpArch::Aarch64 => Some(AUDIT_ARCH_AARCH64),
        _ => None,
    }
}

impl Prefix {
    /// The bytes for these architectures. For each one: is it this one, else go on with the next; then its
    /// numbers; what none of them decides goes on to libseccomp's program, which follows.
    pub(super) fn assemble(&self, arches: &[ScmpArch]) -> Vec<u8> {
        let blocks: Vec<Vec<[u8; 8]>> = arches
            .iter()
            .filter_map(|&arch| self.block(audit(arch)?))
            .collect();
        blocks.into_iter().flatten().flatten().collect()
    }

    fn block(&self, audit: u32) -> Option<Vec<[u8; 8]>> {
        let mut rules: Vec<[[u8; 8]; 2]> = Vec::new();
        if audit == AUDIT_ARCH_I386
            && let Some(returned) = self.socketcall
        {
            rules.push([
                instruction(JUMP_IF_EQUAL, 0, 1, SOCKETCALL),
                instruction(RETURN, 0, 0, returned),
            ]);
        }
        for &(number, returned) in &self.numbers {
            rules.push([
                instruction(JUMP_IF_EQUAL, 0, 1, number),
                instruction(RETURN, 0, 0, returned),
            ]);
        }
        let mut body: Vec<[u8; 8]> = rules.into_iter().flatten().collect();
        if let Some(newest) = self.newest {
            // x32 numbers are large on purpose: they are libseccomp's business.
            if audit == AUDIT_ARCH_X86_64 {
                body.push(instruction(JUMP_IF_AT_LEAST, 2, 0, X32));
            }
            body.push(instruction(JUMP_IF_AT_LEAST, 0, 1, newest.saturating_add(1)));
            body.push(instruction(RETURN, 0, 0, RETURN_ENOSYS));
        }
        if body.is_empty() {
            return None;
        }
        // A conditional jump reaches 255 instructions: the load of the number is skipped with the body.
        let skipped = u8::try_from(body.len() + 1).ok()?;
        let mut block = vec![
            instruction(LOAD, 0, 0, ARCH),
            instruction(JUMP_IF_EQUAL, 0, skipped, audit),
            instruction(LOAD, 0, 0, NUMBER),
        ];
        block.append(&mut body);
        Some(block)
    }
}
