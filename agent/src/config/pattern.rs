//! Names by pattern: `*` stands for any run of characters, `/` included.

/// A pattern of names, for example `boiler/*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern(String);

impl Pattern {
    /// The pattern that the text writes; every text is one.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Whether the name fits.
    pub(crate) fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else {
            return false;
        };
        let Some(last) = parts.next_back() else {
            return rest.is_empty();
        };
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn star_stands_for_anything() {
        for (pattern, name, fits) in [
            ("*", "boiler/pressure", true),
            ("boiler/*", "boiler/pressure", true),
            ("boiler/*", "boiler", false),
            ("boiler", "boiler", true),
            ("boiler", "boiler2", false),
            ("*/t*p", "oven/temp", true),
            ("*/t*p", "oven/temperature", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a**b", "axb", true),
        ] {
            assert_eq!(
                Pattern::new(pattern).matches(name),
                fits,
                "{pattern} {name}"
            );
        }
    }
}
