//! Bearer tokens: EdDSA JWTs checked against a JSON Web Key Set of Ed25519 public keys that is read again when its file
//! changes. A door that says so also takes sets of RSA keys.
//!
//! Called by the door of each server, which decides what a scope may do. Invariants: the key set alone decides on the one
//! algorithm that is accepted, whatever the token's header says; `exp` is required; `aud` is kept in the claims and judged
//! by the caller; no error holds a token.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use http::{HeaderMap, StatusCode, header};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use pgfleet_api::ErrorCode;
use pgfleet_api::auth::Claims;
use serde_json::Value;

use crate::exit::{ExitCode, USAGE};
use crate::http::ApiError;

/// Clocks of two machines may differ by this much before a token is refused.
const LEEWAY_SECONDS: u64 = 10;
/// A changed key file is looked for at most this often.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// Tokens that are remembered as good; a fleet of more callers has all of them checked anew now and then.
const REMEMBERED: usize = 4096;
/// Longest token that is remembered, in bytes.
const REMEMBERED_BYTES: usize = 2048;

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// The file cannot be read.
    #[error("cannot read the key set {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The document is not a key set.
    #[error("{place} is not a JSON Web Key Set")]
    Parse {
        /// File or field.
        place: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// It holds no key that can be used.
    #[error("{place} holds no {kind} key, so nobody could log in")]
    NoKey {
        /// File or field.
        place: String,
        /// What was looked for.
        kind: &'static str,
    },
}

impl ExitCode for JwksError {
    fn exit_code(&self) -> u8 {
        USAGE
    }
}

/// Which key sets a door takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySets {
    /// Sets of Ed25519 keys.
    Ed25519,
    /// The same, and where any key of a set is marked RS256, its RSA keys and no others.
    Ed25519OrRs256,
}

/// Public keys that sign tokens for this server, all for one algorithm.
pub struct Jwks {
    algorithm: Algorithm,
    keys: Vec<(Option<String>, DecodingKey)>,
}

impl Jwks {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, is no key set, or holds no key that can be used.
    pub fn load(path: &Path, sets: KeySets) -> Result<Self, JwksError> {
        let bytes = std::fs::read(path).map_err(|source| JwksError::Read { path: path.to_owned(), source })?;
        let place = path.display().to_string();
        let value =
            serde_json::from_slice(&bytes).map_err(|source| JwksError::Parse { place: place.clone(), source })?;
        Self::from_json(&value, place, sets)
    }

    /// Takes a key set that came inside another document.
    ///
    /// # Errors
    /// It is no key set or holds no key that can be used.
    pub fn from_value(value: &Value, sets: KeySets) -> Result<Self, JwksError> {
        Self::from_json(value, "the key set".to_owned(), sets)
    }

    fn from_json(value: &Value, place: String, sets: KeySets) -> Result<Self, JwksError> {
        let set: JwkSet = serde::Deserialize::deserialize(value)
            .map_err(|source| JwksError::Parse { place: place.clone(), source })?;
        let marked = |jwk: &Jwk| jwk.common.key_algorithm == Some(KeyAlgorithm::RS256);
        let rsa = sets == KeySets::Ed25519OrRs256 && set.keys.iter().any(marked);
        let (algorithm, kind) = if rsa { (Algorithm::RS256, "RSA") } else { (Algorithm::EdDSA, "Ed25519") };
        let usable = |jwk: &Jwk| Some((jwk.common.key_id.clone(), key_for(jwk, algorithm)?));
        let keys: Vec<_> = set.keys.iter().filter_map(usable).collect();
        if keys.is_empty() { Err(JwksError::NoKey { place, kind }) } else { Ok(Self { algorithm, keys }) }
    }
}

/// The key, where it is one for the algorithm.
fn key_for(jwk: &Jwk, algorithm: Algorithm) -> Option<DecodingKey> {
    match (&jwk.algorithm, algorithm) {
        (AlgorithmParameters::OctetKeyPair(okp), Algorithm::EdDSA) if okp.curve == EllipticCurve::Ed25519 => {
            DecodingKey::from_ed_components(&okp.x).ok()
        }
        (AlgorithmParameters::RSA(rsa), Algorithm::RS256)
            if matches!(jwk.common.key_algorithm, None | Some(KeyAlgorithm::RS256)) =>
        {
            DecodingKey::from_rsa_components(&rsa.n, &rsa.e).ok()
        }
        _ => None,
    }
}

impl std::fmt::Debug for Jwks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|(kid, _)| kid)).finish()
    }
}

/// Why a token does not open the door.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There is none.
    #[error("a token is needed: Authorization: Bearer <token>")]
    MissingToken,
    /// It is malformed, expired, or signed by somebody else.
    #[error("the token is not accepted: {0}")]
    BadToken(&'static str),
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        ApiError::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, error.to_string())
    }
}

/// The answer to a good token that does not allow the request. `needs` names what would.
#[must_use]
pub fn forbidden(needs: &str) -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        ErrorCode::Forbidden,
        format!("the token does not allow this: it needs {needs}"),
    )
}

/// Checks tokens against the current keys. Clones share them.
#[derive(Debug, Clone)]
pub struct Verifier {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    keys: ArcSwap<Jwks>,
    file: Option<File>,
    good: Mutex<Good>,
}

/// Tokens whose signature was found good, with what they claim. A client sends the same token with each request, and a
/// signature costs more than all else that is done for one. What depends on the time is judged each time.
#[derive(Default)]
struct Good {
    /// The keys they were checked with; other keys know none of them.
    keys: Option<Arc<Jwks>>,
    tokens: HashMap<Box<str>, Claims>,
}

impl std::fmt::Debug for Good {
    /// Without the tokens, which are secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Good").field("tokens", &self.tokens.len()).finish_non_exhaustive()
    }
}

impl Good {
    /// What a token claims that was found good by these keys and has not expired by `now`, in seconds of the epoch.
    fn recall(&self, keys: &Arc<Jwks>, token: &str, now: u64) -> Option<Claims> {
        let same = self.keys.as_ref().is_some_and(|known| Arc::ptr_eq(known, keys));
        let claims = self.tokens.get(token).filter(|_| same)?;
        (claims.exp.saturating_add(LEEWAY_SECONDS) > now).then(|| claims.clone())
    }

    fn remember(&mut self, keys: &Arc<Jwks>, token: &str, claims: &Claims) {
        if token.len() > REMEMBERED_BYTES {
            return;
        }
        let same = self.keys.as_ref().is_some_and(|known| Arc::ptr_eq(known, keys));
        if !same || self.tokens.len() >= REMEMBERED {
            self.tokens.clear();
            self.keys = Some(keys.clone());
        }
        self.tokens.insert(token.into(), claims.clone());
    }
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    sets: KeySets,
    seen: Mutex<Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    checked: Instant,
    mark: Option<(SystemTime, u64)>,
}

fn mark(path: &Path) -> Option<(SystemTime, u64)> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

impl Verifier {
    /// With keys that stay until they are [`Verifier::replace`]d.
    #[must_use]
    pub fn new(keys: Jwks) -> Self {
        Self { inner: Arc::new(Inner { keys: ArcSwap::from_pointee(keys), file: None, good: Mutex::default() }) }
    }

    /// With keys from a file, read again when it changes.
    ///
    /// # Errors
    /// As for [`Jwks::load`].
    pub fn from_file(path: &Path, sets: KeySets) -> Result<Self, JwksError> {
        let seen = Mutex::new(Seen { checked: Instant::now(), mark: mark(path) });
        let keys = ArcSwap::from_pointee(Jwks::load(path, sets)?);
        let file = Some(File { path: path.to_owned(), sets, seen });
        Ok(Self { inner: Arc::new(Inner { keys, file, good: Mutex::default() }) })
    }

    /// Uses other keys from now on.
    pub fn replace(&self, keys: Jwks) {
        self.inner.keys.store(Arc::new(keys));
    }

    /// Reads the key file again if its time or length changed; looks at most once a second. Broken content is logged
    /// and the keys in use stay.
    pub fn reload_if_changed(&self) {
        let Some(file) = &self.inner.file else { return };
        {
            let mut seen = file.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.checked.elapsed() < CHECK_EVERY {
                return;
            }
            seen.checked = Instant::now();
            let now = mark(&file.path);
            if now.is_none() || now == seen.mark {
                return;
            }
            seen.mark = now;
        }
        match Jwks::load(&file.path, file.sets) {
            Ok(keys) => {
                self.replace(keys);
                tracing::info!(path = %file.path.display(), "the key set was read again");
            }
            Err(error) => tracing::error!("{}; the keys in use stay", crate::exit::chain(&error)),
        }
    }

    /// The claims of the request's token.
    ///
    /// # Errors
    /// There is no token, or it is not to be trusted.
    pub fn verify(&self, headers: &HeaderMap) -> Result<Claims, AuthError> {
        self.reload_if_changed();
        let token = bearer(headers)?;
        let keys = self.inner.keys.load_full();
        let good = || self.inner.good.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(claims) = good().recall(&keys, token, now()) {
            return Ok(claims);
        }
        let claims = check(&keys, token)?;
        good().remember(&keys, token, &claims);
        Ok(claims)
    }
}

/// Seconds of the epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Checks a token as if it were seen for the first time.
fn check(keys: &Jwks, token: &str) -> Result<Claims, AuthError> {
    let head = jsonwebtoken::decode_header(token).map_err(|error| AuthError::BadToken(reason(error.kind())))?;
    let mut rules = Validation::new(keys.algorithm);
    rules.leeway = LEEWAY_SECONDS;
    rules.validate_aud = false;
    rules.validate_nbf = true;
    let mut refused = AuthError::BadToken("no key of ours has the key id it names");
    for (kid, key) in &keys.keys {
        if head.kid.is_some() && kid.is_some() && head.kid != *kid {
            continue;
        }
        match jsonwebtoken::decode::<Claims>(token, key, &rules) {
            Ok(data) => return Ok(data.claims),
            Err(error) => refused = AuthError::BadToken(reason(error.kind())),
        }
    }
    Err(refused)
}

fn bearer(headers: &HeaderMap) -> Result<&str, AuthError> {
    let value = headers.get(header::AUTHORIZATION).ok_or(AuthError::MissingToken)?;
    let text = value.to_str().map_err(|_| AuthError::BadToken("the header is not text"))?;
    let (scheme, token) = text.split_once(' ').ok_or(AuthError::MissingToken)?;
    if !scheme.eq_ignore_ascii_case("bearer") || token.trim().is_empty() {
        return Err(AuthError::MissingToken);
    }
    Ok(token.trim())
}

/// The library's texts may quote claims; ours do not.
fn reason(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::ExpiredSignature => "it has expired",
        ErrorKind::ImmatureSignature => "it is not valid yet",
        ErrorKind::InvalidSignature => "it is not signed by a key of ours",
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName | ErrorKind::UnsupportedAlgorithm => {
            "it is not signed with the algorithm of our keys"
        }
        ErrorKind::MissingRequiredClaim(_) => "it has no exp claim",
        ErrorKind::Json(_) | ErrorKind::InvalidClaimFormat(_) => "its claims cannot be read",
        _ => "it is malformed",
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer as _;
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use jsonwebtoken::{EncodingKey, Header, get_current_timestamp};
    use pgfleet_api::auth::Scope;
    use serde_json::json;

    use super::*;

    const PEM: &[u8] = b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
    /// The public half of the key above (RFC 8037, appendix A).
    const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    const OTHER_X: &str = "2-Jj2UvNCvQiUPNYRgSi0cJSPiJI6Rs6D0UTeEpQVj8";

    fn jwks(x: &str) -> Value {
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "k1", "alg": "EdDSA", "use": "sig"}]})
    }

    fn headers(exp: u64) -> HeaderMap {
        let claims =
            Claims { scope: Some(Scope::Admin), exp, aud: vec!["compute".into()], compute_id: None, sub: None };
        let key = EncodingKey::from_ed_pem(PEM).unwrap();
        let token = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &key).unwrap();
        with(&format!("Bearer {token}"))
    }

    fn with(value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        headers
    }

    #[test]
    fn good_expired_wrong_key_missing() {
        let verifier = Verifier::new(Jwks::from_value(&jwks(X), KeySets::Ed25519).unwrap());
        let now = get_current_timestamp();
        assert_eq!(verifier.verify(&headers(now + 60)).unwrap().scope, Some(Scope::Admin));
        assert_eq!(verifier.verify(&headers(now - 60)), Err(AuthError::BadToken("it has expired")));
        assert_eq!(verifier.verify(&HeaderMap::new()), Err(AuthError::MissingToken));
        assert_eq!(verifier.verify(&with("Basic abc")), Err(AuthError::MissingToken));
        assert!(matches!(verifier.verify(&with("Bearer abc")), Err(AuthError::BadToken(_))));
        verifier.replace(Jwks::from_value(&jwks(OTHER_X), KeySets::Ed25519).unwrap());
        assert_eq!(verifier.verify(&headers(now + 60)), Err(AuthError::BadToken("it is not signed by a key of ours")));
    }

    #[test]
    fn a_good_token_is_remembered_until_it_expires_or_the_keys_change() {
        let keys = |x| Arc::new(Jwks::from_value(&jwks(x), KeySets::Ed25519).unwrap());
        let (mine, same_again) = (keys(X), keys(X));
        let claims = Claims { scope: Some(Scope::Admin), exp: 1000, aud: Vec::new(), compute_id: None, sub: None };
        let mut good = Good::default();
        assert_eq!(good.recall(&mine, "token", 999), None);
        good.remember(&mine, "token", &claims);
        assert_eq!(good.recall(&mine, "token", 999), Some(claims.clone()));
        assert_eq!(good.recall(&mine, "token", 1000 + LEEWAY_SECONDS), None, "it has expired");
        assert_eq!(good.recall(&mine, "other", 999), None);
        assert_eq!(good.recall(&same_again, "token", 999), None, "the keys were read again");
        good.remember(&same_again, "other", &claims);
        assert_eq!(good.recall(&mine, "token", 999), None);
        for number in 0..2 * REMEMBERED {
            good.remember(&mine, &number.to_string(), &claims);
            assert!(good.tokens.len() <= REMEMBERED);
        }
        good.remember(&mine, &"x".repeat(REMEMBERED_BYTES + 1), &claims);
        assert!(good.tokens.keys().all(|token| token.len() <= REMEMBERED_BYTES));
        assert!(!format!("{good:?}").contains("8191"), "a token in a log");
    }

    #[test]
    fn only_eddsa_and_only_with_exp() {
        let verifier = Verifier::new(Jwks::from_value(&jwks(X), KeySets::Ed25519).unwrap());
        let hs = jsonwebtoken::encode(
            &Header::new(Algorithm::HS256),
            &json!({"exp": get_current_timestamp() + 60}),
            &EncodingKey::from_secret(X.as_bytes()),
        )
        .unwrap();
        assert!(matches!(verifier.verify(&with(&format!("Bearer {hs}"))), Err(AuthError::BadToken(_))));
        let key = EncodingKey::from_ed_pem(PEM).unwrap();
        let endless = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &json!({"scope": "admin"}), &key).unwrap();
        assert!(matches!(verifier.verify(&with(&format!("Bearer {endless}"))), Err(AuthError::BadToken(_))));
    }

    #[test]
    fn a_key_set_without_a_usable_key_is_refused() {
        let read = |value| Jwks::from_value(&value, KeySets::Ed25519);
        assert!(matches!(read(json!({"keys": []})), Err(JwksError::NoKey { .. })));
        assert!(matches!(read(json!({"no": 1})), Err(JwksError::Parse { .. })));
    }

    #[test]
    fn rs256_only_where_it_is_asked_for_and_then_nothing_else() {
        let pkcs8 = KeyPair::generate(KeySize::Rsa2048).unwrap().as_der().unwrap();
        // The head of PKCS#8 around a key of this size.
        let key = EncodingKey::from_rsa_der(&pkcs8.as_ref()[26..]);
        let mut set = jwks(X);
        let rsa = Jwk::from_encoding_key(&key, Algorithm::RS256).unwrap();
        set["keys"].as_array_mut().unwrap().push(serde_json::to_value(rsa).unwrap());
        let claims = json!({"exp": get_current_timestamp() + 60, "scope": "admin"});
        let rs256 = jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &key).unwrap();
        let rs256 = with(&format!("Bearer {rs256}"));
        let eddsa = headers(get_current_timestamp() + 60);

        let only_ed = Verifier::new(Jwks::from_value(&set, KeySets::Ed25519).unwrap());
        assert!(only_ed.verify(&eddsa).is_ok() && only_ed.verify(&rs256).is_err());
        let either = Verifier::new(Jwks::from_value(&set, KeySets::Ed25519OrRs256).unwrap());
        assert!(either.verify(&rs256).is_ok() && either.verify(&eddsa).is_err());
        either.replace(Jwks::from_value(&jwks(X), KeySets::Ed25519OrRs256).unwrap());
        assert!(either.verify(&eddsa).is_ok() && either.verify(&rs256).is_err());
    }
}
