//! What the error stream says at the end.

use serde_json::json;

use crate::Outcome;

/// The two languages of the error stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Protocols 1 to 3: nothing on success, else a sentence.
    Text,
    /// Protocols 4 and 5: a `metav1.Status` in JSON.
    Json,
}

impl Form {
    /// The bytes for `outcome`; empty when there is nothing to say.
    pub(crate) fn encode(self, outcome: &Outcome) -> Vec<u8> {
        let (reason, message) = match outcome {
            Outcome::Exited(0) if self == Self::Text => return Vec::new(),
            Outcome::Exited(0) => {
                return json!({"metadata": {}, "status": "Success"})
                    .to_string()
                    .into_bytes();
            }
            Outcome::Exited(code) => (
                "NonZeroExitCode",
                format!("command terminated with non-zero exit code: {code}"),
            ),
            Outcome::Failed(why) => ("InternalError", format!("Internal error occurred: {why}")),
        };
        if self == Self::Text {
            return message.into_bytes();
        }
        let mut status = json!({"metadata": {}, "status": "Failure", "message": message, "reason": reason});
        match outcome {
            Outcome::Exited(code) => {
                let cause = json!({"reason": "ExitCode", "message": code.to_string()});
                status["details"] = json!({"causes": [cause]});
            }
            Outcome::Failed(_) => status["code"] = json!(500),
        }
        status.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_is_silent_in_text_and_a_status_in_json() {
        assert!(Form::Text.encode(&Outcome::Exited(0)).is_empty());
        assert_eq!(
            Form::Json.encode(&Outcome::Exited(0)),
            br#"{"metadata":{},"status":"Success"}"#
        );
    }

    #[test]
    fn an_exit_code_is_a_cause() {
        let bytes = Form::Json.encode(&Outcome::Exited(42));
        let status: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0]["reason"], "ExitCode");
        assert_eq!(status["details"]["causes"][0]["message"], "42");
        assert!(Form::Text.encode(&Outcome::Exited(42)).ends_with(b"42"));
    }

    #[test]
    fn a_failure_carries_its_sentence() {
        let bytes = Form::Json.encode(&Outcome::Failed("no such container \"x\"".into()));
        let status: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(status["reason"], "InternalError");
        assert!(
            status["message"]
                .as_str()
                .unwrap()
                .contains("no such container \"x\"")
        );
    }
}
