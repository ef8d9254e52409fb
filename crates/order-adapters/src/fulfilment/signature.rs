//! Signatures of outgoing requests (Standard Webhooks 1.0, symmetric form).
//!
//! # Invariants
//! A secret is never shown: not by `Debug`, not by an error.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::FulfilmentConfigError;

/// What secrets begin with.
const PREFIX: &str = "whsec_";

/// More secrets than two would only make a rotation that was forgotten last longer.
const SECRETS_MAX: usize = 2;

/// How long a secret may be, in bytes, as the standard recommends.
const SECRET_LEN: std::ops::RangeInclusive<usize> = 24..=64;

/// The secrets that sign requests: one, or two while one replaces the other.
///
/// Read from `whsec_<base64>`, separated by a comma.
#[derive(Clone)]
pub struct FulfilmentSecrets(Vec<Hmac<Sha256>>);

impl FulfilmentSecrets {
    /// The value of `webhook-signature`: one signature per secret, separated by spaces. The
    /// receiver accepts a request if one of them is right.
    pub(super) fn sign(&self, id: &str, timestamp_s: i64, body: &[u8]) -> String {
        let signatures = self.0.iter().map(|keyed| {
            let mut mac = keyed.clone();
            mac.update(format!("{id}.{timestamp_s}.").as_bytes());
            mac.update(body);
            format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
        });
        signatures.collect::<Vec<_>>().join(" ")
    }
}

impl FromStr for FulfilmentSecrets {
    type Err = FulfilmentConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let secrets: Vec<_> = text.split(',').map(str::trim).collect();
        if secrets.len() > SECRETS_MAX {
            return Err(error("must be at most two secrets, separated by a comma"));
        }
        secrets
            .into_iter()
            .map(parse_secret)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl fmt::Debug for FulfilmentSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FulfilmentSecrets({} hidden)", self.0.len())
    }
}

fn parse_secret(text: &str) -> Result<Hmac<Sha256>, FulfilmentConfigError> {
    let encoded = text
        .strip_prefix(PREFIX)
        .ok_or_else(|| error("must begin with whsec_"))?;
    let secret = STANDARD
        .decode(encoded)
        .map_err(|_| error("must be whsec_ followed by base64 with padding"))?;
    if !SECRET_LEN.contains(&secret.len()) {
        return Err(error("must be 24 to 64 bytes in base64"));
    }
    Hmac::new_from_slice(&secret).map_err(|_| error("must be a key that HMAC takes"))
}

fn error(rule: &str) -> FulfilmentConfigError {
    FulfilmentConfigError::new("FULFILMENT_SECRET", rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks libraries.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn signature_is_that_of_the_standard() {
        let secrets: FulfilmentSecrets = SECRET.parse().unwrap();
        let signature = secrets.sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_of_two_secrets_signs() {
        let other = format!("whsec_{}", STANDARD.encode([7; 24]));
        let both: FulfilmentSecrets = format!("{SECRET}, {other}").parse().unwrap();
        let sign = |text: &str| {
            text.parse::<FulfilmentSecrets>()
                .unwrap()
                .sign("id", 1, b"{}")
        };

        let expected = format!("{} {}", sign(SECRET), sign(&other));
        assert_eq!(both.sign("id", 1, b"{}"), expected);
    }

    #[test]
    fn bad_secret_is_refused_and_never_shown() {
        let short = format!("whsec_{}", STANDARD.encode([7; 23]));
        let long = format!("whsec_{}", STANDARD.encode([7; 65]));
        let three = [SECRET; 3].join(",");
        for (text, rule) in [
            ("", "whsec_"),
            ("hunter2", "whsec_"),
            ("whsec_hunter2!", "base64"),
            (short.as_str(), "24 to 64 bytes"),
            (long.as_str(), "24 to 64 bytes"),
            (three.as_str(), "at most two"),
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw,", "whsec_"),
        ] {
            let error = text.parse::<FulfilmentSecrets>().unwrap_err().to_string();
            assert!(error.starts_with("FULFILMENT_SECRET must"), "{error}");
            assert!(error.contains(rule), "{error}");
            assert!(
                !error.contains("hunter2") && !error.contains("MfKQ"),
                "{error}"
            );
        }
        let secrets: FulfilmentSecrets = SECRET.parse().unwrap();
        assert_eq!(format!("{secrets:?}"), "FulfilmentSecrets(1 hidden)");
    }
}
