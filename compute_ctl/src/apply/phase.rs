//! The parts of a spec's application, in their order.

use measured::FixedCardinalityLabel;

/// Part of a spec's application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, FixedCardinalityLabel)]
pub enum Phase {
    /// Subscriptions and slots of databases that are to be dropped.
    PreDrop,
    /// The role that every new role is a member of, and what it may in databases to come.
    PrivilegedRole,
    /// Databases whose drop was interrupted.
    DropInvalidDatabases,
    /// Renames of roles.
    RenameRoles,
    /// Roles, made or altered.
    Roles,
    /// Renames and deletions of databases, in the spec's order.
    RenameAndDeleteDatabases,
    /// Databases, whose owners are roles.
    Databases,
    /// Work inside each database.
    InDatabases,
    /// Extensions that PostgreSQL brings along.
    Extensions,
    /// The table that the check of writability writes to.
    AvailabilityCheck,
    /// Deletions of roles that own nothing any more.
    DropRoles,
    /// A note that the subscriptions are dropped, so that it happens once.
    DropSubscriptions,
    /// Changes that a newer agent makes to what an older one made.
    Migrations,
}

impl Phase {
    /// All, in their order.
    pub const ALL: [Self; 13] = [
        Self::PreDrop,
        Self::PrivilegedRole,
        Self::DropInvalidDatabases,
        Self::RenameRoles,
        Self::Roles,
        Self::RenameAndDeleteDatabases,
        Self::Databases,
        Self::InDatabases,
        Self::Extensions,
        Self::AvailabilityCheck,
        Self::DropRoles,
        Self::DropSubscriptions,
        Self::Migrations,
    ];

    /// Its name in error details, plans and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PreDrop => "pre_drop",
            Self::PrivilegedRole => "privileged_role",
            Self::DropInvalidDatabases => "drop_invalid_databases",
            Self::RenameRoles => "rename_roles",
            Self::Roles => "roles",
            Self::RenameAndDeleteDatabases => "rename_and_delete_databases",
            Self::Databases => "databases",
            Self::InDatabases => "in_databases",
            Self::Extensions => "extensions",
            Self::AvailabilityCheck => "availability_check",
            Self::DropRoles => "drop_roles",
            Self::DropSubscriptions => "drop_subscriptions",
            Self::Migrations => "migrations",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_in_order() {
        assert!(Phase::ALL.is_sorted());
    }
}
