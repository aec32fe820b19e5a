//! Escapes of a URL's parts.

/// The text behind `%`-escapes; none where one is broken, or where the text is none that PostgreSQL can hold.
#[must_use]
pub fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let hex = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        assert_eq!(decode("a%20b%C3%A9%25").as_deref(), Some("a bé%"));
        for broken in ["%", "%2", "%zz", "%C3", "%00"] {
            assert_eq!(decode(broken), None, "{broken}");
        }
    }
}
