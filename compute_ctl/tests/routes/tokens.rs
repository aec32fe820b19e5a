//! Who may see what, and with which keys.

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, get_current_timestamp};
use serde_json::{Value, json};

use crate::support::{Compute, SCRAM_PW1, alice, postgres_program, spec};

/// Key pair of RFC 8037, appendix A.
const PEM: &[u8] = b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

fn eddsa(claims: &Value) -> String {
    jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), claims, &EncodingKey::from_ed_pem(PEM).unwrap()).unwrap()
}

async fn get(compute: &Compute, path: &str, authorization: Option<&str>) -> (u16, Value) {
    let mut request = compute.request(reqwest::Method::GET, path);
    if let Some(value) = authorization {
        request = request.header("authorization", value);
    }
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn verifiers_are_for_administrators_and_keys_change_with_a_spec() {
    let Some(program) = postgres_program() else { return };
    let mut compute = Compute::prepare(program);
    let ed = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": X, "kid": "k"}]});
    let config = json!({"spec": spec(json!([alice()]), json!([]), json!([])), "compute_ctl_config": {"jwks": ed}});
    std::fs::write(compute.dir.0.join("c.json"), config.to_string()).unwrap();
    compute.start_agent(&["-c", "c.json"]).await;
    let soon = get_current_timestamp() + 60;
    let admin = json!({"exp": soon, "scope": "compute_ctl:admin", "aud": ["compute"]});
    let own = json!({"exp": soon, "compute_id": "no-compute"});
    let bearer = |token: String| format!("Bearer {token}");
    let (admin_ed, own_ed) = (bearer(eddsa(&admin)), bearer(eddsa(&own)));

    // The reference's codes.
    let rows = [
        (None, 400),
        (Some("Basic abc".to_owned()), 400),
        (Some("Bearer abc".to_owned()), 401),
        (Some(bearer(eddsa(&json!({"exp": soon - 120, "compute_id": "no-compute"})))), 401),
        (Some(bearer(eddsa(&json!({"exp": soon, "scope": "compute_ctl:admin", "aud": ["other"]})))), 401),
        (Some(bearer(eddsa(&json!({"exp": soon})))), 403),
        (Some(bearer(eddsa(&json!({"exp": soon, "compute_id": "other"})))), 403),
        (Some(own_ed.clone()), 200),
        (Some(admin_ed.clone()), 200),
    ];
    for (header, code) in rows {
        let (got, body) = get(&compute, "/status", header.as_deref()).await;
        assert_eq!(got, code, "{header:?}: {body}");
        assert!(code == 200 || body["error"].is_string(), "{body}");
    }
    for path in ["/metrics.json", "/dbs_and_roles", "/database_schema?database=postgres", "/insights"] {
        assert_eq!(get(&compute, path, None).await.0, 400, "{path}");
    }
    assert_eq!(compute.post("/check_writability", "").await.0, 400);

    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while get(&compute, "/status", Some(&own_ed)).await.1["status"] != "running" {
        assert!(std::time::Instant::now() < deadline, "it never runs");
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    let verifier = |objects: &Value| {
        let roles = objects["roles"].as_array().unwrap();
        roles.iter().find(|role| role["name"] == "alice").unwrap().get("encrypted_password").cloned()
    };
    let (_, seen_by_admin) = get(&compute, "/dbs_and_roles", Some(&admin_ed)).await;
    assert_eq!(verifier(&seen_by_admin), Some(json!(SCRAM_PW1)));
    let (_, seen_by_own) = get(&compute, "/dbs_and_roles", Some(&own_ed)).await;
    assert_eq!(verifier(&seen_by_own), None);
    assert!(!compute.agent_log().contains("SCRAM-SHA-256"));

    // A later configuration brings a set with an RS256 key: from then on only that algorithm counts.
    let pkcs8 = KeyPair::generate(KeySize::Rsa2048).unwrap().as_der().unwrap();
    // The head of PKCS#8 around a key of this size.
    let key = EncodingKey::from_rsa_der(&pkcs8.as_ref()[26..]);
    let rsa = serde_json::to_value(Jwk::from_encoding_key(&key, Algorithm::RS256).unwrap()).unwrap();
    let body = json!({"spec": spec(json!([alice()]), json!([]), json!([])),
        "compute_ctl_config": {"jwks": {"keys": [rsa, ed["keys"][0]]}}});
    let request = compute.request(reqwest::Method::POST, "/configure").header("authorization", &admin_ed);
    assert_eq!(request.body(body.to_string()).send().await.unwrap().status(), 200);
    let rs256 = bearer(jsonwebtoken::encode(&Header::new(Algorithm::RS256), &own, &key).unwrap());
    assert_eq!(get(&compute, "/status", Some(&rs256)).await.0, 200);
    assert_eq!(get(&compute, "/status", Some(&own_ed)).await.0, 401);
}
