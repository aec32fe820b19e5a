//! Tokens, metrics, and their names.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what fails here fails the test")]

mod support;

use jsonwebtoken::{Algorithm, EncodingKey, Header, get_current_timestamp};
use serde_json::{Value, json};
use support::{Compute, postgres_program};

/// Key pair of RFC 8037, appendix A.
const PEM: &[u8] = b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

fn token(claims: &Value) -> String {
    jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), claims, &EncodingKey::from_ed_pem(PEM).unwrap()).unwrap()
}

#[tokio::test]
async fn tokens() {
    let Some(program) = postgres_program() else { return };
    let dir = support::Scratch::new();
    let keys = dir.0.join("keys.json");
    let jwks = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": X, "kid": "k"}]});
    std::fs::write(&keys, jwks.to_string()).unwrap();
    let flags = ["--http-host", "0.0.0.0", "--jwks-file", keys.to_str().unwrap()];
    let compute = Compute::start(program, &flags).await;
    let (soon, past) = (get_current_timestamp() + 60, get_current_timestamp() - 60);
    let rows = [
        (None, 400),
        (Some(json!({"exp": soon, "compute_id": "no-compute"})), 200),
        (Some(json!({"exp": past, "compute_id": "no-compute"})), 401),
        (Some(json!({"compute_id": "no-compute"})), 401),
        (Some(json!({"exp": soon, "compute_id": "other"})), 403),
        (Some(json!({"exp": soon, "scope": "compute_ctl:admin", "aud": ["compute"]})), 200),
        (Some(json!({"exp": soon, "scope": "compute_ctl:admin", "aud": ["other"]})), 401),
        (Some(json!({"exp": soon, "scope": "viewer"})), 403),
    ];
    for (claims, code) in rows {
        let mut request = compute.request(reqwest::Method::GET, "/status");
        if let Some(claims) = &claims {
            request = request.bearer_auth(token(claims));
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), code, "{claims:?}");
        let body: Value = response.json().await.unwrap();
        assert!(code == 200 || body["error"].is_string(), "{body}");
    }
    for path in ["/configure", "/spec", "/terminate"] {
        assert_eq!(compute.post(path, "{}").await.0, 400, "{path}");
    }
    assert_eq!(compute.get("/metrics").await.0, 200);
}
