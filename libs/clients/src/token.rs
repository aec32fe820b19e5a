//! Tokens: short-lived ones minted from an Ed25519 key, long-lived ones from a file, and where a client takes its own.
//!
//! Who calls it: every client of this crate; `pgfleet local`, which makes keys. Invariants: a key or token is never
//! in a `Debug` or an error; a minted token is used for at most half of its life, so it cannot expire on its way.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use pgfleet_api::ComputeId;
use pgfleet_api::auth::{AGENT_AUDIENCE, Claims, Scope};
use serde_json::{Value, json};

use crate::watched::Watched;

/// Life of a minted token.
const TTL: Duration = Duration::from_secs(60);
/// Grants are few (one per role of this process, one per compute at most); above this the expired ones are dropped.
const CACHE_SWEEP_AT: usize = 1024;

/// Why there is no token; one line that names the file.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file does not hold an Ed25519 private key.
    #[error("{} is no Ed25519 private key (PKCS#8, PEM)", path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// The file does not hold a token.
    #[error("{} holds no token: it must be one line of visible ASCII", path.display())]
    NotAToken {
        /// The file.
        path: PathBuf,
    },
    /// The crypto library refused.
    #[error("cannot make a key or sign a token")]
    Crypto,
}

/// What a token should allow; the claims without their time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Grant {
    /// What it allows.
    pub scope: Scope,
    /// Whom it is meant for.
    pub aud: Vec<String>,
    /// The compute it is bound to.
    pub compute_id: Option<ComputeId>,
    /// Who holds it, for the journal.
    pub sub: Option<String>,
}

impl Grant {
    /// A grant of a scope and nothing else.
    #[must_use]
    pub const fn of(scope: Scope) -> Self {
        Self { scope, aud: Vec::new(), compute_id: None, sub: None }
    }

    /// A controller's grant at an agent, in the form the reference's agents accept too.
    #[must_use]
    pub fn agent_admin() -> Self {
        Self { aud: vec![AGENT_AUDIENCE.to_owned()], ..Self::of(Scope::AgentAdmin) }
    }

    /// The same grant with the name of its holder.
    #[must_use]
    pub fn held_by(mut self, sub: impl Into<String>) -> Self {
        self.sub = Some(sub.into());
        self
    }
}

/// Mints 60 s tokens from a private key file that is read again when it changes.
pub struct Minter {
    key: Watched<EncodingKey>,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    /// The key the tokens were signed with; another one empties the cache.
    key: Option<Arc<EncodingKey>>,
    tokens: HashMap<Grant, Minted>,
}

struct Minted {
    token: String,
    use_until: Instant,
}

impl Minter {
    /// Opens the key file.
    ///
    /// # Errors
    /// The file cannot be read or is no Ed25519 private key.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, TokenError> {
        let key = Watched::open(path.into(), parse_key)?;
        Ok(Self { key, cache: Mutex::default() })
    }

    /// A token for this grant, from the cache until half of its life is over.
    ///
    /// # Errors
    /// The crypto library refused to sign.
    pub fn mint(&self, grant: &Grant) -> Result<String, TokenError> {
        let key = self.key.get();
        let now = Instant::now();
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.key.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &key)) {
            cache.tokens.clear();
            cache.key = Some(Arc::clone(&key));
        }
        if let Some(minted) = cache.tokens.get(grant).filter(|minted| now < minted.use_until) {
            return Ok(minted.token.clone());
        }
        if cache.tokens.len() >= CACHE_SWEEP_AT {
            cache.tokens.retain(|_, minted| now < minted.use_until);
        }
        let token = sign(&key, grant, TTL)?;
        cache.tokens.insert(grant.clone(), Minted { token: token.clone(), use_until: now + TTL / 2 });
        Ok(token)
    }

    /// A token with a life of its own, never cached: for a token file that `pgfleet local` writes.
    ///
    /// # Errors
    /// The crypto library refused to sign.
    pub fn mint_long_lived(&self, grant: &Grant, ttl: Duration) -> Result<String, TokenError> {
        sign(&self.key.get(), grant, ttl)
    }

    /// Reads the key file now: for a caller whose token was refused.
    pub fn reload(&self) {
        self.key.reread();
    }
}

impl fmt::Debug for Minter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Minter").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Where a client takes its bearer token from.
#[derive(Clone, Default)]
pub enum Source {
    /// It sends none: for servers started without keys.
    #[default]
    Anonymous,
    /// Always this one.
    Fixed(String),
    /// The one line of a file, read again when it changes.
    File(Arc<TokenFile>),
    /// Minted for what the client needs.
    Minter(Arc<Minter>),
}

impl Source {
    /// A token file.
    ///
    /// # Errors
    /// The file cannot be read or holds no token.
    pub fn file(path: impl Into<PathBuf>) -> Result<Self, TokenError> {
        Ok(Self::File(Arc::new(TokenFile(Watched::open(path.into(), parse_token)?))))
    }

    /// The token to send for this grant; a fixed token or a file is sent whatever the grant.
    ///
    /// # Errors
    /// A minter could not sign.
    pub fn token(&self, grant: &Grant) -> Result<Option<String>, TokenError> {
        match self {
            Self::Anonymous => Ok(None),
            Self::Fixed(token) => Ok(Some(token.clone())),
            Self::File(file) => Ok(Some(file.0.get().as_str().to_owned())),
            Self::Minter(minter) => minter.mint(grant).map(Some),
        }
    }

    /// Reads key or token files now: for a caller whose token was refused.
    pub fn reload(&self) {
        match self {
            Self::Anonymous | Self::Fixed(_) => {}
            Self::File(file) => drop(file.0.reread()),
            Self::Minter(minter) => minter.reload(),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Fixed(_) => f.write_str("Fixed(redacted)"),
            Self::File(file) => f.debug_tuple("File").field(&file.0).finish(),
            Self::Minter(minter) => minter.fmt(f),
        }
    }
}

/// A file that holds one token.
pub struct TokenFile(Watched<String>);

/// A new Ed25519 key: the private half as PKCS#8 PEM, the public half as a JWK.
///
/// # Errors
/// The crypto library refused.
pub fn generate_key_pair() -> Result<(String, Value), TokenError> {
    let pair = Ed25519KeyPair::generate().map_err(|_| TokenError::Crypto)?;
    let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| TokenError::Crypto)?;
    let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
    // RFC 7638: the key's own hash is its id, so two tools that see the same key name it alike.
    let thumbprint =
        digest::digest(&digest::SHA256, format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#).as_bytes());
    let jwk = json!({
        "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig",
        "kid": URL_SAFE_NO_PAD.encode(thumbprint.as_ref()), "x": x,
    });
    Ok((pem(der.as_ref()), jwk))
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    pem
}

fn parse_key(path: &Path, bytes: &[u8]) -> Result<EncodingKey, TokenError> {
    let not_a_key = || TokenError::NotAKey { path: path.to_owned() };
    let key = EncodingKey::from_ed_pem(bytes).map_err(|_| not_a_key())?;
    // The PEM reader only looks at the wrapping; the first signature shows whether the key itself is whole.
    sign(&key, &Grant::of(Scope::Viewer), TTL).map_err(|_| not_a_key())?;
    Ok(key)
}

fn parse_token(path: &Path, bytes: &[u8]) -> Result<String, TokenError> {
    let text = String::from_utf8_lossy(bytes).trim().to_owned();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(TokenError::NotAToken { path: path.to_owned() });
    }
    Ok(text)
}

/// No `kid` in the header: a verifier holds a handful of keys and tries them, so a key set that names its keys
/// otherwise than we would still works.
fn sign(key: &EncodingKey, grant: &Grant, ttl: Duration) -> Result<String, TokenError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|_| TokenError::Crypto)?;
    let claims = Claims {
        scope: Some(grant.scope),
        exp: (now + ttl).as_secs(),
        aud: grant.aud.clone(),
        compute_id: grant.compute_id.clone(),
        sub: grant.sub.clone(),
    };
    jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, key).map_err(|_| TokenError::Crypto)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::jwk::Jwk;
    use jsonwebtoken::{DecodingKey, Validation, decode};

    struct KeyFile(PathBuf);

    impl KeyFile {
        fn new(name: &str, text: &str) -> Self {
            let path = std::env::temp_dir().join(format!("pgfleet-{name}-{}", std::process::id()));
            std::fs::write(&path, text).unwrap();
            Self(path)
        }
    }

    impl Drop for KeyFile {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn verify(token: &str, jwk: &Value) -> Result<Claims, jsonwebtoken::errors::Error> {
        let jwk: Jwk = serde_json::from_value(jwk.clone()).unwrap();
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.validate_aud = false;
        decode::<Claims>(token, &DecodingKey::from_jwk(&jwk).unwrap(), &validation).map(|data| data.claims)
    }

    #[test]
    fn a_minted_token_verifies_with_the_public_half_only_of_its_own_key() {
        let (pem, jwk) = generate_key_pair().unwrap();
        let (_, stranger) = generate_key_pair().unwrap();
        let file = KeyFile::new("mint", &pem);
        let minter = Minter::open(&file.0).unwrap();
        let token = minter.mint(&Grant::agent_admin().held_by("me")).unwrap();
        let claims = verify(&token, &jwk).unwrap();
        assert_eq!(claims.scope, Some(Scope::AgentAdmin));
        assert_eq!(claims.aud, ["compute"]);
        assert_eq!(claims.sub.as_deref(), Some("me"));
        assert!(verify(&token, &stranger).is_err());
        assert_eq!(minter.mint(&Grant::agent_admin().held_by("me")).unwrap(), token, "cached");
    }

    #[test]
    fn a_rotated_key_signs_the_next_token() {
        let (first, _) = generate_key_pair().unwrap();
        let (second, jwk) = generate_key_pair().unwrap();
        let file = KeyFile::new("rotate", &first);
        let minter = Minter::open(&file.0).unwrap();
        let grant = Grant::of(Scope::ControllerPeer);
        assert!(verify(&minter.mint(&grant).unwrap(), &jwk).is_err());
        // Same length and perhaps the same clock tick: the comment makes the stamp differ for certain.
        std::fs::write(&file.0, format!("{second}\n")).unwrap();
        minter.reload();
        assert!(verify(&minter.mint(&grant).unwrap(), &jwk).is_ok());
    }

    #[test]
    fn what_is_no_key_or_token_is_refused_with_the_file_s_name() {
        let file = KeyFile::new("nokey", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
        let message = Minter::open(&file.0).unwrap_err().to_string();
        assert!(message.contains("pgfleet-nokey"), "{message}");
        let file = KeyFile::new("notoken", "two lines\nof text\n");
        assert!(matches!(Source::file(&file.0), Err(TokenError::NotAToken { .. })));
    }

    #[test]
    fn debug_shows_no_secret() {
        let (pem, _) = generate_key_pair().unwrap();
        let file = KeyFile::new("debug", &pem);
        let secret = pem.lines().nth(1).unwrap();
        let minter = Arc::new(Minter::open(&file.0).unwrap());
        let token = minter.mint(&Grant::of(Scope::Admin)).unwrap();
        let shown = format!("{minter:?} {:?} {:?}", Source::Minter(Arc::clone(&minter)), Source::Fixed(token.clone()));
        assert!(!shown.contains(secret) && !shown.contains(&token), "{shown}");
    }
}
