//! A profile becomes a BPF program: by libseccomp, with a [`Prefix`] in front.

use std::collections::BTreeSet;
use std::io::Read;

use libseccomp::error::SeccompError;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};

use super::numbers;
use super::prefix::Prefix;
use super::profile::{Argument, Entry, Profile, Situation};
use crate::fault::{Fault, Result};
use crate::limits;

/// EPERM, where a profile names no error.
const EPERM: i32 = 1;
/// What seccomp_attr_set(3) calls a binary tree: the time does not grow with the number of calls.
const BINARY_TREE: u32 = 2;

/// The program of a profile in a situation, as `struct sock_filter[]`.
///
/// # Errors
/// The profile names an unknown action or comparison, or becomes too long for the kernel.
pub(super) fn compile(profile: &Profile, situation: Situation) -> Result<Vec<u8>> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: SeccompError| Fault::invalid(format!("{what}: {error}"))
    };
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut context = ScmpFilterContext::new(default).map_err(failed("making a seccomp filter"))?;
    let mut arches = vec![ScmpArch::native()];
    for name in profile.architectures() {
        let arch: ScmpArch = name.parse().map_err(|_| {
            Fault::invalid(format!(
                "the seccomp profile names the unknown architecture {name:?}"
            ))
        })?;
        context.add_arch(arch).map_err(failed("adding an architecture"))?;
        arches.push(arch);
    }
    context
        .set_ctl_optimize(BINARY_TREE)
        .map_err(failed("choosing a seccomp filter's shape"))?;
    let mut prefix = Prefix::default();
    let mut names = BTreeSet::new();
    for entry in profile.entries(situation) {
        let wanted = action(&entry.action, entry.errno_ret.or(profile.default_errno_ret))?;
        for name in entry.names() {
            names.insert(name);
            // A rule that says what the default says is refused by libseccomp, and says nothing.
            if wanted != default {
                rule(&mut context, &mut prefix, name, entry, wanted)?;
            }
        }
    }
    if let ScmpAction::Errno(_) = default {
        prefix.newest = Some(numbers::newest());
        if !names.contains("socketcall") {
            prefix.socketcall = Some(returned(default)?);
        }
    }
    let mut program = prefix.assemble(&arches);
    program.extend(export(&context)?);
    let instructions = program.len() / 8;
    if instructions > limits::SECCOMP_INSTRUCTIONS_MAX {
        return Err(Fault::invalid(format!(
            "the seccomp profile becomes {instructions} instructions, the kernel takes {}",
            limits::SECCOMP_INSTRUCTIONS_MAX
        )));
    }
    Ok(program)
}

fn rule(
    context: &mut ScmpFilterContext,
    prefix: &mut Prefix,
    name: &str,
    entry: &Entry,
    wanted: ScmpAction,
) -> Result<()> {
    let failed = |error: SeccompError| Fault::invalid(format!("seccomp rule for {name:?}: {error}"));
    let Ok(syscall) = ScmpSyscall::from_name(name) else {
        let Some(number) = numbers::common(name) else {
            // Profiles name calls of other architectures and of kernels to come.
            return Ok(());
        };
        if !entry.arguments().is_empty() {
            return Err(Fault::invalid(format!(
                "seccomp rule for {name:?}: arguments of this call cannot be compared"
            )));
        }
        prefix.numbers.push((number, returned(wanted)?));
        return Ok(());
    };
    let comparisons = entry
        .arguments()
        .iter()
        .map(comparison)
        .collect::<Result<Vec<_>>>()?;
    let indices: BTreeSet<u32> = entry.arguments().iter().map(|argument| argument.index).collect();
    if indices.len() == comparisons.len() {
        context
            .add_rule_conditional(wanted, syscall, &comparisons)
            .map_err(failed)?;
        return Ok(());
    }
    // Two comparisons of one argument: libseccomp takes one a rule, so they are alternatives, as in runc.
    for comparison in comparisons {
        context
            .add_rule_conditional(wanted, syscall, &[comparison])
            .map_err(failed)?;
    }
    Ok(())
}

fn comparison(argument: &Argument) -> Result<ScmpArgCompare> {
    if argument.index > 5 {
        return Err(Fault::invalid(format!(
            "a system call has no argument {}",
            argument.index
        )));
    }
    let (op, value) = match argument.op.as_str() {
        "SCMP_CMP_NE" => (ScmpCompareOp::NotEqual, argument.value),
        "SCMP_CMP_LT" => (ScmpCompareOp::Less, argument.value),
        "SCMP_CMP_LE" => (ScmpCompareOp::LessOrEqual, argument.value),
        "SCMP_CMP_EQ" => (ScmpCompareOp::Equal, argument.value),
        "SCMP_CMP_GE" => (ScmpCompareOp::GreaterEqual, argument.value),
        "SCMP_CMP_GT" => (ScmpCompareOp::Greater, argument.value),
        "SCMP_CMP_MASKED_EQ" => (ScmpCompareOp::MaskedEqual(argument.value), argument.value_two),
        other => {
            return Err(Fault::invalid(format!(
                "unknown comparison {other:?} in the seccomp profile"
            )));
        }
    };
    Ok(ScmpArgCompare::new(argument.index, op, value))
}

fn action(name: &str, errno: Option<u32>) -> Result<ScmpAction> {
    let number = match errno {
        None => EPERM,
        Some(number) => u16::try_from(number)
            .map(i32::from)
            .map_err(|_| Fault::invalid(format!("error number {number} in the seccomp profile")))?,
    };
    Ok(match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => ScmpAction::KillThread,
        "SCMP_ACT_KILL_PROCESS" => ScmpAction::KillProcess,
        "SCMP_ACT_TRAP" => ScmpAction::Trap,
        "SCMP_ACT_ERRNO" => ScmpAction::Errno(number),
        "SCMP_ACT_TRACE" => ScmpAction::Trace(u16::try_from(number).unwrap_or(0)),
        "SCMP_ACT_LOG" => ScmpAction::Log,
        "SCMP_ACT_ALLOW" => ScmpAction::Allow,
        "SCMP_ACT_NOTIFY" => {
            return Err(Fault::unimplemented(
                "the seccomp profile uses SCMP_ACT_NOTIFY, which is not supported",
            ));
        }
        other => {
            return Err(Fault::invalid(format!(
                "unknown action {other:?} in the seccomp profile"
            )));
        }
    })
}

/// What a filter returns for an action (linux/seccomp.h, SECCOMP_RET_*).
fn returned(action: ScmpAction) -> Result<u32> {
    Ok(match action {
        ScmpAction::KillProcess => 0x8000_0000,
        ScmpAction::KillThread => 0,
        ScmpAction::Trap => 0x0003_0000,
        ScmpAction::Errno(number) => 0x0005_0000 | u32::try_from(number).unwrap_or(0),
        ScmpAction::Trace(number) => 0x7ff0_0000 | u32::from(number),
        ScmpAction::Log => 0x7ffc_0000,
        ScmpAction::Allow => 0x7fff_0000,
        other => return Err(Fault::internal(format!("seccomp action {other:?} has no value"))),
    })
}

/// libseccomp writes programs to descriptors only; a thread reads while it writes.
fn export(context: &ScmpFilterContext) -> Result<Vec<u8>> {
    let failed =
        |error: std::io::Error| Fault::internal(format!("taking a seccomp filter from libseccomp: {error}"));
    let (mut reader, writer) = std::io::pipe().map_err(failed)?;
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let mut program = Vec::new();
            reader.read_to_end(&mut program).map(|_| program)
        });
        let exported = context.export_bpf(&writer);
        drop(writer);
        let program = reading
            .join()
            .unwrap_or_else(|_| Err(std::io::Error::other("the reader ended")));
        exported.map_err(|error| Fault::internal(format!("exporting a seccomp filter: {error}")))?;
        program.map_err(failed)
    })
}
