//! Takes secrets out of a line of PostgreSQL's log: statements of users stand there as they were typed.
//!
//! What goes: verifiers (SCRAM, MD5), what follows the word "password" as a literal or value, and passwords in URLs. Where
//! the end of a secret is not clear, more is taken rather than less.

use std::borrow::Cow;

/// What stands in the place of a secret.
const REDACTED: &str = "[redacted]";

/// The line without secrets.
pub(super) fn redact(line: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut done = 0;
    let mut at = 0;
    while at < line.len() {
        let rest = &line[at..];
        let found = verifier(rest).or_else(|| password(rest, line[..at].chars().next_back())).or_else(|| url(rest));
        let Some((begin, end)) = found else {
            at += rest.chars().next().map_or(1, char::len_utf8);
            continue;
        };
        out.push_str(&line[done..at + begin]);
        out.push_str(REDACTED);
        at += end;
        done = at;
    }
    if done == 0 {
        return Cow::Borrowed(line);
    }
    out.push_str(&line[done..]);
    Cow::Owned(out)
}

/// Where the secret begins and ends, counted from the begin of the text.
type Span = (usize, usize);

fn verifier(text: &str) -> Option<Span> {
    const SCRAM: &str = "SCRAM-SHA-256$";
    if text.starts_with(SCRAM) {
        let part = |c: char| c.is_ascii_alphanumeric() || "+/=:$".contains(c);
        return Some((SCRAM.len(), length_while(text, SCRAM.len(), part)));
    }
    let hex = text.strip_prefix("md5")?;
    (hex.len() >= 32 && hex.bytes().take(32).all(|b| b.is_ascii_hexdigit())).then_some((3, 35))
}

/// `PASSWORD 'x'`, `password=x`, `"password": "x"`, `(password 'x')`, `PASSWORD $$x$$`.
fn password(text: &str, before: Option<char>) -> Option<Span> {
    const WORD: &str = "password";
    let is_word = text.get(..WORD.len()).is_some_and(|word| word.eq_ignore_ascii_case(WORD));
    // Also as the end of a longer name, like sslpassword, but only as its end.
    if !is_word || text[WORD.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_') {
        return None;
    }
    let quoted_name = before.is_some_and(|c| matches!(c, '"' | '\'')) && text[WORD.len()..].starts_with(['"', '\'']);
    let mut at = WORD.len() + usize::from(quoted_name);
    at = length_while(text, at, char::is_whitespace);
    let separator = length_while(text, at, |c| matches!(c, '=' | ':' | '>'));
    let assigned = separator > at;
    at = length_while(text, separator, char::is_whitespace);
    let prefix = length_while(text, at, |c| c.is_ascii_alphabetic() || c == '&');
    let rest = &text[at..];
    if prefix - at <= 2 && text[prefix..].starts_with('\'') {
        return Some((prefix + 1, prefix + 1 + literal(&text[prefix + 1..])));
    }
    if rest.starts_with('$')
        && let Some(tag) = rest[1..].find('$').map(|end| &rest[..end + 2])
        && tag[1..tag.len() - 1].chars().all(|c| c.is_alphanumeric() || c == '_')
    {
        let begin = at + tag.len();
        return Some((begin, text[begin..].find(tag).map_or(text.len(), |end| begin + end)));
    }
    if !assigned {
        return None;
    }
    if let Some(value) = rest.strip_prefix('"') {
        return Some((at + 1, at + 1 + value.find('"').unwrap_or(value.len())));
    }
    let end = length_while(text, at, |c| !c.is_whitespace() && !matches!(c, '\'' | '"' | ',' | ';' | ')' | '&'));
    (end > at).then_some((at, end))
}

/// Length of a literal whose opening quote is before `text`, without its closing one. A doubled or escaped quote does not
/// end it.
fn literal(text: &str) -> usize {
    // Inside another literal the quotes are doubled, once or more: ''secret''.
    let inner = text.trim_start_matches('\'');
    let quotes = text.len() - inner.len();
    if quotes > 0 && inner.starts_with(|c: char| !c.is_whitespace() && !matches!(c, ';' | ',' | ')')) {
        return quotes + inner.find(&"'".repeat(quotes + 1)).unwrap_or(inner.len());
    }
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '\'' if chars.peek().is_some_and(|(_, next)| *next == '\'') => {
                chars.next();
            }
            '\'' => return at,
            _ => {}
        }
    }
    text.len()
}

/// `postgresql://user:secret@host`.
fn url(text: &str) -> Option<Span> {
    let authority = text.strip_prefix("://")?;
    let end = length_while(authority, 0, |c| !c.is_whitespace() && !matches!(c, '/' | '?' | '#' | '\'' | '"'));
    let user_info = authority[..end].rfind('@')?;
    let colon = authority[..user_info].find(':')?;
    (user_info > colon + 1).then_some((3 + colon + 1, 3 + user_info))
}

/// The first position from `from` on whose character does not fit.
fn length_while(text: &str, from: usize, fits: impl Fn(char) -> bool) -> usize {
    text[from..].find(|c| !fits(c)).map_or(text.len(), |at| from + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_go_and_the_rest_stays() {
        let scram = "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy";
        let md5 = "md50123456789abcdef0123456789abcdef";
        let rows = [
            (format!("STATEMENT:  ALTER ROLE x PASSWORD '{scram}'"), "STATEMENT:  ALTER ROLE x PASSWORD '[redacted]'"),
            (format!("got {scram}, then"), "got SCRAM-SHA-256$[redacted], then"),
            (format!("hash {md5} of"), "hash md5[redacted] of"),
            ("create role a password 'pl''ain' login".into(), "create role a password '[redacted]' login"),
            ("ALTER ROLE a PASSWORD E'pl\\'ain' LOGIN".into(), "ALTER ROLE a PASSWORD E'[redacted]' LOGIN"),
            ("ALTER ROLE a PASSWORD U&'pl' LOGIN".into(), "ALTER ROLE a PASSWORD U&'[redacted]' LOGIN"),
            ("ALTER ROLE a PASSWORD\t'unfinished".into(), "ALTER ROLE a PASSWORD\t'[redacted]"),
            ("ALTER ROLE a PASSWORD $$pl'ain$$ LOGIN".into(), "ALTER ROLE a PASSWORD $$[redacted]$$ LOGIN"),
            ("ALTER ROLE a PASSWORD $x1$pl$$ain$x1$ b".into(), "ALTER ROLE a PASSWORD $x1$[redacted]$x1$ b"),
            ("CONNECTION 'host=h password=abc user=u'".into(), "CONNECTION 'host=h password=[redacted] user=u'"),
            ("'CONNECTION ''password=''''x y'''' '''".into(), "'CONNECTION ''password='[redacted]'''' '''"),
            ("dblink('password = ''a b'' x')".into(), "dblink('password = '[redacted]'' x')"),
            ("PASSWORD '' LOGIN".into(), "PASSWORD '[redacted]' LOGIN"),
            ("OPTIONS (user 'u', password 'p w')".into(), "OPTIONS (user 'u', password '[redacted]')"),
            (r#"{"password": "a b", "c": 1}"#.into(), r#"{"password": "[redacted]", "c": 1}"#),
            ("sslpassword=abc".into(), "sslpassword=[redacted]"),
            ("postgresql://u:se:cret@h/db".into(), "postgresql://u:[redacted]@h/db"),
            ("é PASSWORD 'ü' é".into(), "é PASSWORD '[redacted]' é"),
        ];
        for (line, want) in &rows {
            assert_eq!(redact(line), *want, "{line}");
        }
        for harmless in [
            "FATAL:  password authentication failed for user \"alice\"",
            "ALTER ROLE a PASSWORD NULL",
            "SELECT * FROM password_resets WHERE x = 'y'",
            "postgresql://u@h:5432/db md5 is old, 10:00 https://h/x:y",
            "SELECT $1 WHERE password IS NULL",
        ] {
            assert_eq!(redact(harmless), harmless);
        }
    }

    #[test]
    fn no_text_makes_it_panic() {
        let parts =
            ["password", "PASSWORD ", "'", "''", "$", "$$", "=", "://", ":", "@", "é", "md5", "\\", "\"", " ", "E'"];
        for a in parts {
            for b in parts {
                for c in parts {
                    for d in parts {
                        redact(&format!("{a}{b}{c}{d}"));
                    }
                }
            }
        }
    }
}
