//! Names that SQL, dollar quotes, format strings and log lines could stumble over.

use serde_json::{Value, json};

use crate::stage::{Stage, database, delta, quiet_spec};
use crate::support::SCRAM_PW1;

/// `tag` makes them differ; the last one has 63 bytes, the most that there are.
fn names(tag: char) -> Vec<String> {
    let plain = [
        "quote\" double \"\" '' single'",
        "back\\slash \\' \\n",
        "$x$ $$ $tag$; DROP",
        "%s %I %% %",
        "tab\tnew\nline\r",
        "elephant 🐘 Ünïcode",
        "--/* */; SELECT 1",
        "pgfleet",
        "Public",
        " ",
    ];
    let mut names: Vec<String> = plain.into_iter().map(|name| format!("{name}{tag}")).collect();
    names.push(format!("{tag}{}", "é".repeat(31)));
    names
}

#[tokio::test]
async fn every_name_is_safe_everywhere() {
    let Some(stage) = Stage::new().await else { return };
    let (old, new) = (names('1'), names('2'));
    let roles = |names: &[String]| -> Vec<Value> {
        names.iter().map(|name| json!({"name": name, "encrypted_password": SCRAM_PW1})).collect()
    };
    let databases = |names: &[String]| -> Vec<Value> { names.iter().map(|name| database(name, name)).collect() };
    let spec = quiet_spec(json!(roles(&old)), json!(databases(&old)), Value::Null);
    stage.applies(&spec).await;
    stage.is_done(&spec).await;

    let mut deltas: Vec<Value> = Vec::new();
    for (from, to) in old.iter().zip(&new) {
        deltas.push(delta("rename_role", from, Some(to)));
        deltas.push(delta("rename_db", from, Some(to)));
    }
    let renamed = quiet_spec(json!(roles(&new)), json!(databases(&new)), json!(deltas));
    stage.applies(&renamed).await;
    stage.is_done(&renamed).await;
    let there = "SELECT count(*) FROM pg_database JOIN pg_authid a ON a.oid = datdba WHERE datname = rolname AND rolname LIKE '%2%'";
    assert_eq!(stage.ask("postgres", there).await, new.len().to_string());

    // Each role owns a table in the database of the next one, has a grant by another's option, and goes with its database.
    for (i, name) in new.iter().enumerate() {
        let host = &new[(i + 1) % new.len()];
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let (table, giver) = (quoted(&format!("t{name}").chars().take(30).collect::<String>()), quoted(host));
        let sql = format!(
            "SET ROLE {giver}; CREATE SCHEMA {table}; GRANT ALL ON SCHEMA {table} TO {role}, neon_superuser; \
             RESET ROLE; CREATE TABLE {table}.{table} (x int); ALTER TABLE {table}.{table} OWNER TO {role}; \
             CREATE TABLE {table}.given (x int); GRANT ALL ON {table}.given TO neon_superuser WITH GRANT OPTION; \
             SET ROLE neon_superuser; GRANT SELECT ON {table}.given TO {role}; RESET ROLE",
            role = quoted(name)
        );
        stage.run(host, &sql).await;
    }
    let (kept, gone): (Vec<_>, Vec<_>) = new.iter().cloned().enumerate().partition(|(i, _)| i % 2 == 0);
    let (kept, gone): (Vec<String>, Vec<String>) =
        (kept.into_iter().map(|k| k.1).collect(), gone.into_iter().map(|g| g.1).collect());
    let deltas: Vec<Value> =
        gone.iter().flat_map(|name| [delta("delete_role", name, None), delta("delete_db", name, None)]).collect();
    let fewer = quiet_spec(json!(roles(&kept)), json!(databases(&kept)), json!(deltas));
    stage.applies(&fewer).await;
    stage.is_done(&fewer).await;
    assert_eq!(stage.ask("postgres", there).await, kept.len().to_string());
    let owners = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND pg_get_userbyid(relowner) = current_database()";
    assert_eq!(stage.ask(&kept[1], owners).await, "1", "what a deleted role owned is the database owner's");
    let log = stage.compute.agent_log();
    assert!(
        log.lines().all(|line| line.starts_with("20") || line.starts_with("LOG") || line.is_empty()),
        "a name broke a line"
    );
}
