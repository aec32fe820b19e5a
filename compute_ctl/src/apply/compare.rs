//! What a set of settings would change in a running server. Reads only.
//!
//! Two texts mean the same when the server program itself reads the same value from them: `128MB` and `131072kB`, `on` and
//! `yes`. That holds for every type of setting and every rule that only PostgreSQL knows, and costs a run of the program
//! for each text that differs. A setting that needs a restart is compared with the value that the server runs with,
//! every other one with what its files say now.

use std::collections::BTreeSet;

use pgfleet_api::plan::{PlannedSetting, SettingClass};

use crate::postgres::{CheckError, Line, Postgres, Row, View, chosen_wal_buffers};

/// Values that are credentials are not shown.
const SECRET: [&str; 2] = ["primary_conninfo", "ssl_passphrase_command"];
const HIDDEN: &str = "(hidden)";

/// Compares the settings `wanted`, the last of a name winning, with what the server and its files have. By name.
///
/// # Errors
/// The server program cannot be run.
pub async fn compare(
    postgres: &Postgres,
    view: &View,
    wanted: &[(String, String)],
) -> Result<Vec<PlannedSetting>, CheckError> {
    let wanted: Vec<_> = wanted.iter().map(|(name, text)| Line { name: name.clone(), text: text.clone() }).collect();
    let mut names: BTreeSet<_> = view.own.iter().chain(&wanted).map(|line| line.name.to_ascii_lowercase()).collect();
    // What waits for a restart is told of although this spec does not touch it: the server runs with something else.
    names.extend(view.rows.iter().filter(|row| row.pending).map(|row| row.name.to_ascii_lowercase()));
    let mut planned = Vec::with_capacity(names.len());
    for name in names {
        let texts = Texts::of(&name, view, &wanted);
        let row = view.rows.iter().find(|row| row.name.eq_ignore_ascii_case(&name));
        let judged = texts.judge(postgres, &name, row).await?;
        let from = texts.from(row);
        planned.push(shown(PlannedSetting {
            class: judged.class,
            from,
            to: texts.asked.map(ToOwned::to_owned),
            msg: judged.msg.map(ToOwned::to_owned),
            name,
        }));
    }
    Ok(planned)
}

/// The setting as it may be shown: credentials are hidden.
#[must_use]
pub fn shown(mut setting: PlannedSetting) -> PlannedSetting {
    if SECRET.contains(&setting.name.as_str()) {
        for text in [&mut setting.from, &mut setting.to].into_iter().flatten() {
            HIDDEN.clone_into(text);
        }
    }
    setting
}

/// What the files say about one setting.
struct Texts<'a> {
    /// What the spec asks for.
    asked: Option<&'a str>,
    /// The text that wins, before.
    old: Option<&'a str>,
    /// The text that would win.
    new: Option<&'a str>,
    /// A later line has the last word.
    overruled: bool,
    /// The server's shared buffers, in blocks.
    buffers: Option<u64>,
}

struct Judged {
    class: SettingClass,
    msg: Option<&'static str>,
}

impl Judged {
    const fn plain(class: SettingClass) -> Self {
        Self { class, msg: None }
    }

    const fn because(class: SettingClass, msg: &'static str) -> Self {
        Self { class, msg: Some(msg) }
    }
}

fn last<'a>(lines: &'a [Line], name: &str) -> Option<&'a str> {
    lines.iter().rev().find(|line| line.name.eq_ignore_ascii_case(name)).map(|line| line.text.as_str())
}

impl<'a> Texts<'a> {
    fn of(name: &str, view: &'a View, wanted: &'a [Line]) -> Self {
        let (before, after, asked) = (last(&view.before, name), last(&view.after, name), last(wanted, name));
        Self {
            asked,
            old: after.or_else(|| last(&view.own, name)).or(before),
            new: after.or(asked).or(before),
            overruled: after.is_some(),
            buffers: view
                .rows
                .iter()
                .find(|row| row.name == "shared_buffers")
                .and_then(|row| row.value.as_deref()?.parse().ok()),
        }
    }

    async fn judge(&self, postgres: &Postgres, name: &str, row: Option<&Row>) -> Result<Judged, CheckError> {
        if self.overruled {
            let msg = "a line after the agent's file, or ALTER SYSTEM, sets it as well and wins";
            return Ok(Judged::because(SettingClass::NoOp, msg));
        }
        let Some(row) = row else {
            // A name that only an extension may know has an empty value where it has none.
            let same = self.old.unwrap_or_default() == self.new.unwrap_or_default();
            return Ok(Judged::plain(if same { SettingClass::NoOp } else { SettingClass::Reload }));
        };
        match row.context.as_str() {
            _ if row.source == "command line" => {
                Ok(Judged::because(SettingClass::NoOp, "it is given on the server's command line, which wins"))
            }
            "postmaster" => self.judge_restart(postgres, name, row).await,
            "backend" | "superuser-backend" => {
                let same = self.mean_the_same(postgres, name).await?;
                let judged = Judged::because(SettingClass::Reload, "sessions that are open keep their value");
                Ok(if same { Judged::plain(SettingClass::NoOp) } else { judged })
            }
            _ => {
                let same = self.mean_the_same(postgres, name).await?;
                Ok(Judged::plain(if same { SettingClass::NoOp } else { SettingClass::Reload }))
            }
        }
    }

    async fn judge_restart(&self, postgres: &Postgres, name: &str, row: &Row) -> Result<Judged, CheckError> {
        if !as_it_runs(postgres, name, row, self.new, self.buffers).await? {
            return Ok(Judged::plain(SettingClass::Restart));
        }
        if self.old == self.new || as_it_runs(postgres, name, row, self.old, self.buffers).await? {
            return Ok(Judged::plain(SettingClass::NoOp));
        }
        Ok(Judged::because(
            SettingClass::Reload,
            "the server runs with this value: what waited for a restart is taken back",
        ))
    }

    async fn mean_the_same(&self, postgres: &Postgres, name: &str) -> Result<bool, CheckError> {
        if self.old == self.new {
            return Ok(true);
        }
        if name.contains('.') {
            // The program has no library loaded and so knows no rule for it.
            return Ok(false);
        }
        let (old, new) = tokio::try_join!(ask(postgres, name, self.old), ask(postgres, name, self.new))?;
        Ok(old == new)
    }

    fn from(&self, row: Option<&Row>) -> Option<String> {
        match (row, self.old) {
            (Some(row), _) if row.context == "postmaster" => with_unit(row.value.as_deref()?, row.unit.as_deref()),
            (_, Some(text)) => Some(text.to_owned()),
            (Some(row), None) => with_unit(row.default.as_deref()?, row.unit.as_deref()),
            (None, None) => None,
        }
    }
}

/// Whether the server runs with what this text, or its absence, means.
async fn as_it_runs(
    postgres: &Postgres,
    name: &str,
    row: &Row,
    text: Option<&str>,
    buffers: Option<u64>,
) -> Result<bool, CheckError> {
    let runs_with_default = row.source != "configuration file";
    let asked = match text {
        // What the server makes of a default by itself is none of the program's answers.
        None if runs_with_default => return Ok(true),
        None => row.default.clone().unwrap_or_default(),
        Some(text) => ask(postgres, name, Some(text)).await?,
    };
    let chosen = (name == "wal_buffers" && asked == "-1").then(|| buffers.map(chosen_wal_buffers)).flatten();
    let runs = row.value.as_deref();
    Ok(runs == Some(asked.as_str())
        || (runs_with_default && row.default.as_deref() == Some(asked.as_str()))
        || (chosen.is_some() && runs == chosen.as_deref()))
}

/// What the program reads; a text that it refuses stands for itself, because the server runs with something else anyway.
async fn ask(postgres: &Postgres, name: &str, text: Option<&str>) -> Result<String, CheckError> {
    match postgres.canonical(name, text).await {
        Ok(said) => Ok(said),
        Err(CheckError::Refused { .. }) => Ok(format!("refused: {}", text.unwrap_or_default())),
        Err(error @ CheckError::Run(_)) => Err(error),
    }
}

/// A bare number with its unit, blocks as kilobytes.
fn with_unit(value: &str, unit: Option<&str>) -> Option<String> {
    let Some(unit) = unit else { return Some(value.to_owned()) };
    let Ok(number) = value.parse::<f64>() else { return Some(value.to_owned()) };
    if number <= 0.0 {
        return Some(value.to_owned());
    }
    let blocks = unit.strip_suffix("kB").and_then(|factor| factor.parse::<f64>().ok());
    Some(blocks.map_or_else(|| format!("{value}{unit}"), |factor| format!("{}kB", number * factor)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, text: &str) -> Line {
        Line { name: name.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn the_last_line_that_is_read_wins() {
        let view = View {
            before: vec![line("work_mem", "1MB"), line("datestyle", "iso")],
            own: vec![line("work_mem", "2MB"), line("jit", "off")],
            after: vec![line("jit", "on")],
            ..View::default()
        };
        let wanted = [line("work_mem", "3MB"), line("work_mem", "4MB"), line("jit", "off")];
        let texts = Texts::of("work_mem", &view, &wanted);
        assert_eq!(
            (texts.asked, texts.old, texts.new, texts.overruled),
            (Some("4MB"), Some("2MB"), Some("4MB"), false)
        );
        let texts = Texts::of("jit", &view, &wanted);
        assert_eq!((texts.old, texts.new, texts.overruled), (Some("on"), Some("on"), true));
        let dropped = Texts::of("DateStyle", &view, &wanted);
        assert_eq!((dropped.asked, dropped.new), (None, Some("iso")));
    }

    #[test]
    fn numbers_are_shown_with_their_unit() {
        let rows = [
            ("16384", Some("8kB"), "131072kB"),
            ("5", Some("s"), "5s"),
            ("-1", Some("ms"), "-1"),
            ("0", Some("s"), "0"),
            ("100", None, "100"),
            ("1024", Some("kB"), "1024kB"),
            ("64", Some("MB"), "64MB"),
        ];
        for (value, unit, want) in rows {
            assert_eq!(with_unit(value, unit).as_deref(), Some(want));
        }
    }
}
