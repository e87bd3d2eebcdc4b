//! What is asked for where items share a semantic ID: a policy, and another one for what a repair leaves together.

use serde::{Deserialize, Serialize};

use sidereal_core::{CollisionPolicy, Error};

use crate::Result;

/// How items with one semantic ID are kept apart, and what becomes of those that a repair leaves together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collisions {
    /// The policy.
    #[serde(rename = "collisions", default)]
    pub policy: CollisionPolicy,
    /// What a repair leaves.
    #[serde(default, skip_serializing_if = "Leftovers::is_usual")]
    pub leftovers: Leftovers,
}

/// What becomes of items that still share a semantic ID after a repair.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Leftovers {
    /// They share a leaf.
    #[default]
    Postings,
    /// An extra level tells them apart, as with [`CollisionPolicy::Suffix`]; so it does with items that come later.
    Suffix,
    /// They move as with [`CollisionPolicy::NearestFree`]; only those under a full prefix share a leaf.
    NearestFree,
    /// The catalog is refused.
    Error,
}

impl Leftovers {
    /// Names on the command line and in recipes.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("postings", Self::Postings),
        ("suffix", Self::Suffix),
        ("nearest-free", Self::NearestFree),
        ("error", Self::Error),
    ];

    /// The name on the command line and in recipes.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, leftovers)| *leftovers == self).map_or("", |(name, _)| name)
    }

    /// Whether it is what happens where nothing is said.
    pub fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

impl std::str::FromStr for Leftovers {
    type Err = Error;

    fn from_str(name: &str) -> std::result::Result<Self, Error> {
        Self::NAMES.iter().find(|(n, _)| *n == name).map(|(_, leftovers)| *leftovers).ok_or_else(|| {
            let known = Self::NAMES.map(|(n, _)| n).join(", ");
            Error::config("leftovers", format!("no policy is named {name:?}"), format!("use one of: {known}"))
        })
    }
}

impl Collisions {
    /// The policy that the catalog has once its semantic IDs are repaired.
    pub fn of_catalog(self) -> CollisionPolicy {
        if self.leftovers == Leftovers::Suffix { CollisionPolicy::Suffix } else { self.policy }
    }

    /// For a person: "balanced, then nearest-free".
    pub fn told(self) -> String {
        match self.leftovers {
            Leftovers::Postings => self.policy.name().to_owned(),
            _ => format!("{}, then {}", self.policy.name(), self.leftovers.name()),
        }
    }

    /// # Errors
    /// Leftovers of a policy that repairs nothing; `key` names them.
    pub fn check(self, key: &str) -> Result<()> {
        if self.leftovers.is_usual() || self.policy.repairs() {
            return Ok(());
        }
        let problem = format!("{} leaves nothing over: it moves no item", self.policy.name());
        let mend = "use it with nearest-free, sinkhorn or balanced, or leave it out";
        Err(Error::config(key, problem, mend).into())
    }
}

impl From<CollisionPolicy> for Collisions {
    fn from(policy: CollisionPolicy) -> Self {
        Self { policy, leftovers: Leftovers::default() }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn leftovers_have_names_and_follow_repairs_only() {
        for (name, leftovers) in Leftovers::NAMES {
            assert_eq!((name.parse::<Leftovers>().unwrap(), leftovers.name()), (leftovers, name));
            assert_eq!(serde_json::to_value(leftovers).unwrap(), name);
        }
        assert!("balanced".parse::<Leftovers>().unwrap_err().to_string().contains("nearest-free, error"));
        let suffix = Collisions { policy: CollisionPolicy::Sinkhorn, leftovers: Leftovers::Suffix };
        suffix.check("leftovers").unwrap();
        assert_eq!((suffix.of_catalog(), &*suffix.told()), (CollisionPolicy::Suffix, "sinkhorn, then suffix"));
        let error = Collisions { policy: CollisionPolicy::Suffix, ..suffix }.check("catalog.leftovers").unwrap_err();
        assert!(error.to_string().contains("catalog.leftovers"), "{error}");
        assert_eq!(
            serde_json::to_string(&Collisions::from(CollisionPolicy::Balanced)).unwrap(),
            r#"{"collisions":"balanced"}"#
        );
    }
}
