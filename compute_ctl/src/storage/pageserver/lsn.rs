//! A place in the WAL.

use std::fmt;
use std::str::FromStr;

/// A log sequence number, written as two hex numbers with a slash between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lsn(pub u64);

/// Text that is no LSN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an LSN is two hex numbers of up to 8 digits with a slash between them, like 0/16ABCD8")]
pub struct InvalidLsn;

impl Lsn {
    /// What a server gives for "none yet".
    pub const ZERO: Self = Self(0);
}

impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Self, InvalidLsn> {
        let half = |part: &str| {
            let digits = (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            digits.then(|| u64::from_str_radix(part, 16).ok()).flatten().ok_or(InvalidLsn)
        };
        let (high, low) = text.split_once('/').ok_or(InvalidLsn)?;
        Ok(Self(half(high)? << 32 | half(low)?))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_number() {
        for (text, number) in [("0/0", 0), ("0/16ABCD8", 0x16A_BCD8), ("1A/FFFFFFFF", 0x1A_FFFF_FFFF)] {
            assert_eq!(text.parse(), Ok(Lsn(number)));
            assert_eq!(Lsn(number).to_string(), text);
        }
        assert_eq!("0/16abcd8".parse(), Ok(Lsn(0x16A_BCD8)));
        for bad in ["", "0", "/", "0/", "/0", "0/0/0", "0/G", "+1/0", "0/123456789", "0/ 1"] {
            assert_eq!(bad.parse::<Lsn>(), Err(InvalidLsn), "{bad:?}");
        }
    }
}
