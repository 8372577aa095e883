//! Signal names and numbers (signal(7)); the same on x86-64 and arm64.

/// First real-time signal that programs may use: the kernel's 32 and 33 belong to the C library.
const RTMIN: i32 = 34;
/// Last real-time signal.
const RTMAX: i32 = 64;

const NAMES: [(&str, i32); 34] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// SIGTERM: what stops a container that says nothing.
pub const DEFAULT_STOP: i32 = 15;

/// The number of `SIGTERM`, `term`, `15`, `SIGRTMIN+3` or `RTMAX-2`; `None` if it is not a signal.
#[must_use]
pub fn number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str, sign: char| -> Option<i32> {
        if rest.is_empty() {
            return Some(0);
        }
        let digits = rest
            .strip_prefix(sign)
            .or_else(|| rest.strip_prefix(if sign == '+' { "PLUS" } else { "MINUS" }))?;
        digits
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| digits.parse().ok())?
    };
    let real_time = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => Some(RTMIN.checked_add(offset(rest, '+')?)?),
        (_, Some(rest)) => Some(RTMAX.checked_sub(offset(rest, '-')?)?),
        _ => None,
    };
    match real_time {
        Some(number) => (RTMIN..=RTMAX).contains(&number).then_some(number),
        None => NAMES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|&(_, number)| number),
    }
}

/// The name of a signal, e.g. `SIGTERM` or `SIGRTMIN+3`; 49 is `SIGRTMIN+15`, 50 is `SIGRTMAX-14`.
#[must_use]
pub fn name(number: i32) -> String {
    match number {
        RTMIN => "SIGRTMIN".to_owned(),
        RTMAX => "SIGRTMAX".to_owned(),
        35..=49 => format!("SIGRTMIN+{}", number - RTMIN),
        50..=63 => format!("SIGRTMAX-{}", RTMAX - number),
        _ => match NAMES.iter().find(|&&(_, known)| known == number) {
            Some((name, _)) => format!("SIG{name}"),
            None => number.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, want) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("9", Some(9)),
            ("SIGRTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("SIGRTMINPLUS3", Some(37)),
            ("RTMAX-2", Some(62)),
            ("SIGRTMAX", Some(64)),
            ("0", None),
            ("65", None),
            ("SIGRTMIN+31", None),
            ("SIGRTMIN-1", None),
            ("SIGRTMIN+-1", None),
            ("SIG", None),
            ("", None),
        ] {
            assert_eq!(number(text), want, "{text}");
        }
        for signal in (1..=31).chain(34..=64) {
            assert_eq!(number(&name(signal)), Some(signal), "{signal}");
        }
    }
}
