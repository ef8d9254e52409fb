//! What the answer of the endpoint means for the order.
//!
//! The status decides; the body only explains it, and of a body no more is read than an
//! explanation takes.

use std::time::Duration;

use http::{
    HeaderMap, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use order_core::{Cause, Outcome};
use reqwest::Response;
use serde::Deserialize;

/// How much of a body is read, in bytes.
const BODY_LEN_MAX: usize = 64 * 1024;

/// How much of a body that is no problem document goes into the explanation, in characters.
const TEXT_CHARS_MAX: usize = 200;

/// An answer, as far as it matters.
pub(super) struct Answer {
    status: StatusCode,
    retry_after: Option<Duration>,
    /// Empty if the endpoint said nothing.
    text: String,
}

impl Answer {
    /// Reads an answer. A body that breaks off or takes too long explains nothing; the
    /// status is there already. A body that is too long is left unread, which closes the
    /// connection.
    pub(super) async fn read(response: Response, now: Timestamp) -> Self {
        let status = response.status();
        let retry_after = retry_after(response.headers(), now);
        let is_problem = is_problem(response.headers());
        let body = read_start(response).await;
        Self {
            status,
            retry_after,
            text: explanation(&body, is_problem),
        }
    }

    /// Whether the endpoint wants no more requests.
    pub(super) fn is_gone(&self) -> bool {
        self.status == StatusCode::GONE
    }

    /// What is to be done with the order.
    pub(super) fn into_outcome(self) -> Outcome {
        let status = self.status;
        match status {
            _ if status.is_success() => Outcome::Done,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                self.into_retry()
            }
            StatusCode::GONE => Outcome::Fail(Cause::new("FULFILMENT_GONE", self.into_message())),
            _ if status.is_redirection() => Outcome::Fail(Cause::new(
                "FULFILMENT_REDIRECTED",
                format!("the endpoint answered {status}; redirects are not followed"),
            )),
            _ if status.is_client_error() => {
                Outcome::Fail(Cause::new("FULFILMENT_REFUSED", self.into_message()))
            }
            // 5xx, and whatever is no status of HTTP: nothing the order is to blame for.
            _ => self.into_retry(),
        }
    }

    fn into_retry(self) -> Outcome {
        let mut error = format!("the endpoint answered {}", self.status);
        if !self.text.is_empty() {
            error.push_str(": ");
            error.push_str(&self.text);
        }
        Outcome::Retry {
            error,
            after: self.retry_after,
        }
    }

    fn into_message(self) -> String {
        if self.text.is_empty() {
            format!("the endpoint answered {}", self.status)
        } else {
            self.text
        }
    }
}

/// Reads `Retry-After`, seconds or a date (RFC 9110 §10.2.3). A date in the past means now,
/// more seconds than fit mean the longest delay. What cannot be read counts as absent.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    // Not as a point in time: the last day of the year 9999 is none to the library.
    let now = TimeZone::UTC.to_datetime(now);
    let at = http_date(value, now)?;
    Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
}

/// Reads the three forms of a date in HTTP (RFC 9110 §5.6.7), which are all in UTC. The name
/// of the day is redundant and not checked.
fn http_date(value: &str, now: DateTime) -> Option<DateTime> {
    let (day, date) = value.split_once([',', ' '])?;
    if !day.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return None;
    }
    let date = date.trim_start();
    let read = |format| DateTime::strptime(format, date).ok();
    // IMF-fixdate, then asctime, then RFC 850.
    read("%d %b %Y %H:%M:%S GMT")
        .or_else(|| read("%b %e %H:%M:%S %Y"))
        .or_else(|| in_century(read("%d-%b-%y %H:%M:%S GMT")?, now))
}

/// The date with its two-digit year in the century of `now`, or in the one before if it were
/// more than 50 years ahead.
fn in_century(date: DateTime, now: DateTime) -> Option<DateTime> {
    let year = now.year() - now.year() % 100 + date.year() % 100;
    let year = if year > now.year() + 50 {
        year - 100
    } else {
        year
    };
    date.with().year(year).build().ok()
}

/// Whether the body is a problem document (RFC 9457).
fn is_problem(headers: &HeaderMap) -> bool {
    let media_type = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    media_type.is_some_and(|value| {
        let essence = value.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("application/problem+json")
    })
}

/// Reads a body up to the limit.
async fn read_start(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() <= BODY_LEN_MAX {
        let Ok(Some(chunk)) = response.chunk().await else {
            return body;
        };
        body.extend_from_slice(&chunk);
    }
    body.truncate(BODY_LEN_MAX);
    body
}

#[derive(Deserialize)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
}

fn explanation(body: &[u8], is_problem: bool) -> String {
    let problem = is_problem
        .then(|| serde_json::from_slice::<Problem>(body).ok())
        .flatten();
    let text = if let Some(Problem { title, detail }) = problem {
        let parts = [title, detail].into_iter().flatten();
        parts.collect::<Vec<_>>().join(": ")
    } else {
        let text = String::from_utf8_lossy(body);
        text.chars().take(TEXT_CHARS_MAX).collect()
    };
    // One line, however it was laid out.
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "1994-11-06T08:49:00Z";

    fn wait(value: &str) -> Option<Duration> {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
        retry_after(&headers, NOW.parse().unwrap())
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(wait("120"), Some(Duration::from_mins(2)));
        assert_eq!(
            wait("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(Duration::from_secs(37))
        );
        assert_eq!(wait("Sun, 06 Nov 1994 08:48:59 GMT"), Some(Duration::ZERO));
        for bad in [
            "",
            "-1",
            "+1",
            "soon",
            "1.5",
            "0x10",
            "Sun, 06 Nov 1994",
            "Sun, 31 Feb 1994 08:49:37 GMT",
            "06 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(wait(bad), None, "{bad}");
        }
    }

    #[test]
    fn retry_after_has_three_forms_of_a_date() {
        for form in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(wait(form), Some(Duration::from_secs(37)), "{form}");
        }
        // Two digits of a year: at most 50 years ahead, else in the past.
        assert!(wait("Monday, 01-Jan-01 00:00:00 GMT") == Some(Duration::ZERO));
        assert!(wait("Saturday, 01-Jan-95 00:00:00 GMT") > Some(Duration::from_hours(24)));
        assert_eq!(wait("Monday, 01-Jan-68 00:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("Tue Nov  1 08:49:37 1960"), Some(Duration::ZERO));
    }

    #[test]
    fn retry_after_of_any_size_is_a_delay() {
        let day = Some(Duration::from_hours(24));
        for long in [
            "99999999999999999999",
            "999999999999999999999999999999",
            "18446744073709551615",
            "Fri, 31 Dec 9999 23:59:59 GMT",
            "Fri Dec 31 23:59:59 9999",
        ] {
            assert!(wait(long) > day, "{long}");
        }
        assert_eq!(wait("0"), Some(Duration::ZERO));
        assert_eq!(wait("00120"), Some(Duration::from_mins(2)));
    }

    #[test]
    fn body_is_told_in_one_line() {
        assert_eq!(explanation(b" out\n of  stock\r\n", false), "out of stock");
        assert_eq!(
            explanation("ß".repeat(300).as_bytes(), false),
            "ß".repeat(200)
        );
        let problem = br#"{"title": "Out of stock", "detail": "no more shoes", "status": 409}"#;
        assert_eq!(explanation(problem, true), "Out of stock: no more shoes");
        assert_eq!(explanation(br#"{"detail": "no more"}"#, true), "no more");
        assert_eq!(explanation(b"{\"title\": 1}", true), "{\"title\": 1}");
        assert_eq!(explanation(b"", false), "");
    }
}
