//! Which faults a model has, and which rules are switched off in it.

/// A rule that is switched off, to see that the model misses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mutant {
    /// Writes do not look at the leader row, and take no lock on it.
    Fence,
    /// A claim without consent does not compare `renewals`.
    Renewals,
    /// The agent takes whatever comes.
    Ledger,
    /// Who stepped down never claims again.
    Revert,
    /// A claim without consent does not end the old leader's sessions.
    EndSessions,
    /// Pushes do not say which fleet they come from.
    ClusterId,
    /// A claim keeps the term of the row.
    Raise,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Fence, Self::Renewals, Self::Ledger, Self::Revert, Self::EndSessions, Self::ClusterId, Self::Raise];

    /// Its name on the command line and in the results.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fence => "fence",
            Self::Renewals => "renewals",
            Self::Ledger => "ledger",
            Self::Revert => "revert",
            Self::EndSessions => "end_sessions",
            Self::ClusterId => "cluster_id",
            Self::Raise => "raise",
        }
    }

    /// What the model has to find when the rule is off.
    #[must_use]
    pub const fn finds(self) -> &'static [Finding] {
        match self {
            Self::Fence => &[Finding::Breach(Breach::StaleWrite)],
            Self::Renewals => &[Finding::Breach(Breach::Deposed)],
            Self::Ledger => &[Finding::Breach(Breach::StalePush), Finding::Breach(Breach::AgentWentBack)],
            Self::Revert | Self::EndSessions => &[Finding::Headless],
            Self::ClusterId => &[Finding::Breach(Breach::ForeignPush)],
            Self::Raise => &[Finding::Breach(Breach::TwoOwners)],
        }
    }

    /// The scene in which it is looked for: the smallest one that has what the rule is about.
    #[must_use]
    pub const fn scene(self) -> Scene {
        match self {
            Self::Fence | Self::EndSessions => Scene { mutant: Some(self), ..Scene::WRITES },
            Self::Renewals | Self::Revert | Self::Raise => Scene { mutant: Some(self), ..Scene::PAIR },
            Self::Ledger | Self::ClusterId => Scene { mutant: Some(self), ..Scene::AGENTS },
        }
    }
}

/// What the model can find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// A rule of safety is broken.
    Breach(Breach),
    /// There is a state from which a member cannot lead by itself.
    Headless,
}

/// A rule of safety that is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Breach {
    /// A term was given twice.
    TwoOwners,
    /// A leader that renewed after the claimer had looked was deposed without its consent.
    Deposed,
    /// A claim that relied on consent took the row of a leader that had not given it.
    NoConsent,
    /// A write was committed under a term that is not the row's.
    StaleWrite,
    /// An agent acted on a push of a term or generation below one that it had heard of.
    StalePush,
    /// An agent's promise went back in term or generation.
    AgentWentBack,
    /// An agent acted on a push of another fleet.
    ForeignPush,
}

impl Breach {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::TwoOwners,
        Self::Deposed,
        Self::NoConsent,
        Self::StaleWrite,
        Self::StalePush,
        Self::AgentWentBack,
        Self::ForeignPush,
    ];

    /// The property that it breaks.
    #[must_use]
    pub const fn property(self) -> &'static str {
        match self {
            Self::TwoOwners => "a term has one owner",
            Self::Deposed => "a leader that renews is not deposed without its consent",
            Self::NoConsent => "consent is taken only where it was given",
            Self::StaleWrite => "a write commits only under the row's term",
            Self::StalePush => "an agent acts on nothing older than it heard of",
            Self::AgentWentBack => "an agent never goes back",
            Self::ForeignPush => "an agent obeys one fleet",
        }
    }
}

/// Which members, faults and parts a model has. Crashes, restarts, pauses, clock rates and lost messages are in all of
/// them, and none of them is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scene {
    /// For the results.
    pub name: &'static str,
    /// How many members.
    pub members: u8,
    /// Answers of a peer travel: they may be late. Without it only claims and requests to step down may be late.
    pub late_answers: bool,
    /// Members may be started to take over, and ask for a step-down.
    pub take_overs: bool,
    /// Operators ask for step-downs and take-overs; processes are told to end.
    pub operators: bool,
    /// Members may have a migration to run, which may fail.
    pub migrations: bool,
    /// A port may refuse although its process lives; a reading may fail; the answer to a renewal may be lost.
    pub network: bool,
    /// Leaders write.
    pub writes: bool,
    /// Leaders push to an agent: so many pushes under way at once; 0: no agent.
    pub pushes: u8,
    /// The database may lose what it committed since some moment, once.
    pub lost_commits: bool,
    /// A rule that is switched off.
    pub mutant: Option<Mutant>,
}

impl Scene {
    /// Two members that crash, pause, and lose messages.
    pub const NOTHING: Self = Self {
        name: "",
        members: 2,
        late_answers: false,
        take_overs: false,
        operators: false,
        migrations: false,
        network: false,
        writes: false,
        pushes: 0,
        lost_commits: false,
        mutant: None,
    };

    /// Two members with every fault but late answers.
    pub const PAIR: Self = Self { name: "pair", take_overs: true, operators: true, network: true, ..Self::NOTHING };
    /// Two members whose answers are late.
    pub const LATE: Self = Self { name: "late answers", take_overs: true, late_answers: true, ..Self::NOTHING };
    /// Two members whose answers are late, and ports that refuse.
    pub const LATE_WRONG: Self =
        Self { name: "late and wrong answers", take_overs: true, late_answers: true, network: true, ..Self::NOTHING };
    /// Two members, their migrations fail.
    pub const MIGRATIONS: Self =
        Self { name: "migrations", take_overs: true, operators: true, migrations: true, ..Self::NOTHING };
    /// Two members that write.
    pub const WRITES: Self = Self { name: "writes", take_overs: true, operators: true, writes: true, ..Self::NOTHING };
    /// Two members that write and push to an agent.
    pub const AGENTS: Self = Self { name: "agents", writes: true, pushes: 1, ..Self::NOTHING };
    /// As before, and the database loses commits.
    pub const LOST: Self = Self { name: "lost commits", writes: true, pushes: 1, lost_commits: true, ..Self::NOTHING };
    /// Three members.
    pub const THREE: Self = Self { name: "three", members: 3, take_overs: true, ..Self::NOTHING };
    /// Three members and their operators.
    pub const THREE_OPERATED: Self = Self { name: "three, operated", operators: true, ..Self::THREE };
    /// Three members in a network that lies.
    pub const THREE_LIED_TO: Self = Self { name: "three, lied to", network: true, ..Self::THREE };
    /// Three members, their migrations fail.
    pub const THREE_MIGRATE: Self = Self { name: "three that migrate", migrations: true, ..Self::THREE };
    /// Three members that write.
    pub const THREE_WRITE: Self = Self { name: "three that write", members: 3, writes: true, ..Self::NOTHING };

    /// What is explored in every run of the tests.
    pub const BOUNDED: [Self; 3] = [Self::LATE, Self::WRITES, Self::THREE];
    /// What is explored by the deep run.
    pub const DEEP: [Self; 12] = [
        Self::PAIR,
        Self::LATE,
        Self::LATE_WRONG,
        Self::MIGRATIONS,
        Self::WRITES,
        Self::AGENTS,
        Self::LOST,
        Self::THREE,
        Self::THREE_OPERATED,
        Self::THREE_LIED_TO,
        Self::THREE_MIGRATE,
        Self::THREE_WRITE,
    ];

    /// What is in it, beside crashes, restarts, pauses, clock rates and lost messages.
    #[must_use]
    pub fn parts(&self) -> Vec<&'static str> {
        let parts = [
            (self.take_overs, "take-overs at start"),
            (self.operators, "operators"),
            (self.migrations, "failing migrations"),
            (self.network, "false refusals, unread rows, unheard renewals"),
            (self.late_answers, "late answers"),
            (self.writes, "writes"),
            (self.pushes > 0, "pushes and ledger"),
            (self.lost_commits, "lost commits"),
        ];
        parts.into_iter().filter_map(|(has, name)| has.then_some(name)).collect()
    }

    /// Whether this rule is off.
    #[must_use]
    pub fn is_off(&self, rule: Mutant) -> bool {
        self.mutant == Some(rule)
    }
}
