//! SQL quoting.

/// An identifier in double quotes.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string literal; safe whatever `standard_conforming_strings` says.
pub(super) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_its_quotes() {
        assert_eq!(identifier("batch \"night\""), "\"batch \"\"night\"\"\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\' OR 1"), r"E'a\\'' OR 1'");
    }
}
