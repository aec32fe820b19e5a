//! Certificates are verified: against the given root, by name, and never "encrypt but trust anybody".

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pgfleet_api::InstanceId;
use pgfleet_harness::postgres::{Cluster, Options, bin_dir_or_skip};
use pgfleet_persistence::{Database, DatabaseConfig, DbError, ErrorClass, LeaseSession, Release};

use crate::support::{prepare, until};

/// A root `ca.pem`, and a certificate for 127.0.0.1 alone.
fn certificates(dir: &Path) {
    let run = |args: &str| {
        let output = Command::new("openssl").args(args.split(' ')).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    run(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=fleet-root"));
    run(&format!("req {key} -keyout server.key -out server.csr -subj /CN=database"));
    fs::write(dir.join("san"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").unwrap();
    run("x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile san");
    let owner = fs::metadata(dir).unwrap();
    for name in ["server.key", "server.pem", "ca.pem"] {
        fs::set_permissions(dir.join(name), Permissions::from_mode(0o600)).unwrap();
        chown(dir.join(name), Some(owner.uid()), Some(owner.gid())).unwrap();
    }
}

async fn connect(url: String) -> Result<std::sync::Arc<Database>, DbError> {
    let config = DatabaseConfig {
        url,
        instance_id: InstanceId::generate(),
        lease: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(5),
        pool_size: 1,
        release: Release::this(),
    };
    Database::connect(config).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_certificate_is_verified() {
    if bin_dir_or_skip("the_servers_certificate_is_verified").is_none() {
        return;
    }
    if Command::new("openssl").arg("version").output().is_err() {
        pgfleet_harness::skip("the_servers_certificate_is_verified", "there is no openssl");
        return;
    }
    let cluster = Cluster::start(Options::default()).await.unwrap();
    prepare(&cluster.create_database("fleet").await.unwrap()).await;
    certificates(cluster.dir());
    let admin = cluster.connect("postgres").await.unwrap();
    for (name, file) in [("ssl_cert_file", "server.pem"), ("ssl_key_file", "server.key")] {
        let path = cluster.dir().join(file);
        admin.batch_execute(&format!("ALTER SYSTEM SET {name} = '{}'", path.display())).await.unwrap();
    }
    admin.batch_execute("ALTER SYSTEM SET ssl = on").await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    until(&admin, "the server speaks TLS", "SELECT setting = 'on' FROM pg_settings WHERE name = 'ssl'").await;

    let root = cluster.dir().join("ca.pem");
    let with = |mode: &str, host: &str| {
        let url = cluster.url("fleet").replace("127.0.0.1", host);
        url.replace("sslmode=disable", &format!("sslmode={mode}"))
    };
    let rooted = format!("{}&sslrootcert={}", with("verify-full", "127.0.0.1"), root.display());
    let db = connect(rooted.clone()).await.unwrap();
    db.read_leader().await.unwrap();
    let mut lease = LeaseSession::new(std::sync::Arc::clone(&db));
    lease.read().await.unwrap();
    let encrypted = format!(
        "SELECT count(*) = 2 AND bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
         WHERE application_name = 'pgfleet/{}'",
        db.instance_id()
    );
    until(&admin, "the session and the pool are both encrypted", &encrypted).await;

    for (url, why) in [
        (with("verify-full", "127.0.0.1"), "a root that nobody gave"),
        (with("prefer", "127.0.0.1"), "encrypted and not verified"),
        (rooted.replace("127.0.0.1", "localhost"), "another name"),
    ] {
        let error = connect(url).await.err().unwrap_or_else(|| panic!("{why} was trusted"));
        assert_eq!(error.class(), ErrorClass::Connection, "{error:?}");
    }
    let missing = connect(rooted.replace("ca.pem", "nothing.pem")).await.unwrap_err();
    assert!(matches!(missing, DbError::Config { .. }), "{missing:?}");
}
