//! The currencies an amount can be in.

/// Three capital ASCII letters.
pub(crate) type CurrencyCode = [u8; 3];

/// The number of decimal places of each ISO 4217 currency, the most usual first, with its codes in
/// order, each followed by a space.
///
/// The table is our own, and codes that ISO withdraws stay in it: stored orders use them, and
/// an update of a dependency must not make these orders unreadable. Metals, funds without minor
/// units and test codes are left out, since nothing can be paid with them.
const CODES_BY_DIGITS: [(u8, &str); 4] = [
    (
        2,
        "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL \
         BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW CNY COP COU CRC CUC CUP CVE CZK DKK \
         DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HRK HTG \
         HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL \
         MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD \
         PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SLL \
         SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU \
         UZS VED VES WST XAD XCD XCG YER ZAR ZMW ZWG ZWL ",
    ),
    (
        0,
        "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF ",
    ),
    (3, "BHD IQD JOD KWD LYD OMR TND "),
    (4, "CLF UYW "),
];

/// The decimal places of a currency; `None` for an unknown code.
pub(crate) fn minor_digits(code: CurrencyCode) -> Option<u8> {
    let [a, b, c] = code;
    let wanted = [a, b, c, b' '];
    let is_listed = |(_, codes): &&(u8, &str)| {
        let (codes, _) = codes.as_bytes().as_chunks();
        codes.binary_search(&wanted).is_ok()
    };
    CODES_BY_DIGITS
        .iter()
        .find(is_listed)
        .map(|(digits, _)| *digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_sorted_and_have_the_right_digits() {
        for (_, codes) in CODES_BY_DIGITS {
            let codes: Vec<_> = codes.split_terminator(' ').collect();
            assert!(codes.iter().all(|code| code.len() == 3));
            assert!(codes.is_sorted_by(|a, b| a < b));
        }
        for (code, digits) in [(b"USD", 2), (b"JPY", 0), (b"KWD", 3), (b"CLF", 4)] {
            assert_eq!(minor_digits(*code), Some(digits));
        }
    }

    /// Codes leave and join ISO 4217; an order that was accepted stays readable.
    #[test]
    fn withdrawn_and_new_codes_are_known() {
        for code in [b"ANG", b"XCG", b"ZWL", b"ZWG", b"HRK", b"BGN"] {
            assert_eq!(minor_digits(*code), Some(2), "{code:?}");
        }
        for code in [b"usd", b"ZZZ", b"XAU", b"XXX", b"   "] {
            assert_eq!(minor_digits(*code), None, "{code:?}");
        }
    }
}
