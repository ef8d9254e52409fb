//! Rules of messages that have no type of their own.

use order_core::{Cause, Violations};

use crate::proto;

/// A field for which empty text means that it is not given.
pub(super) fn given(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// [`Cause::new`] cuts what does not fit; a client is told instead.
pub(super) fn check_cause(cause: &proto::Cause, violations: &mut Violations) -> Cause {
    let kept = Cause::new(cause.code.as_str(), cause.message.as_str());
    check_code(&kept, &cause.code, violations);
    if kept.message != cause.message {
        let rule = format!(
            "must have at most {} characters and no control characters",
            Cause::MESSAGE_CHARS_MAX
        );
        violations.push("cause/message", rule);
    }
    kept
}

/// Refuses a code of which [`Cause::new`] kept only a part, or nothing.
pub(super) fn check_code(kept: &Cause, code: &str, violations: &mut Violations) {
    if kept.code.is_empty() || kept.code != code {
        let rule = format!(
            "must have 1 to {} letters, digits and underscores",
            Cause::CODE_LEN_MAX
        );
        violations.push("cause/code", rule);
    }
}
