//! Formats that a rendered text may have to be in, as abtreece's confd has them: `output_format`.

use crate::table::Table;
use serde::de::IgnoredAny;
use std::str::FromStr;

/// What a rendered text has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    /// One document of JSON.
    Json,
    /// Documents of YAML.
    Yaml,
    /// A document of TOML.
    Toml,
}

impl FromStr for OutputFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name.to_ascii_lowercase().as_str() {
            "json" => Ok(Self::Json),
            "yaml" | "yml" => Ok(Self::Yaml),
            "toml" => Ok(Self::Toml),
            "xml" => Err("xml is not read here; let check_cmd do it, as xmllint --noout {{.src}}".to_owned()),
            _ => Err(format!("{name:?} is none of json, yaml, toml")),
        }
    }
}

impl OutputFormat {
    /// Reads a text to its end.
    ///
    /// # Errors
    /// It is something else. The place is told, and nothing of the text.
    pub(crate) fn check(self, text: &[u8]) -> Result<(), String> {
        let failed = |error: &str| format!("output format validation failed ({}): {error}", self.name());
        let text = std::str::from_utf8(text).map_err(|_| failed("it is not UTF-8"))?;
        let read = match self {
            Self::Json => serde_json::from_str::<IgnoredAny>(text).map(drop).map_err(|error| error.to_string()),
            Self::Yaml => {
                let options = serde_saphyr::options! { with_snippet: false };
                serde_saphyr::from_multiple_with_options::<IgnoredAny>(text, options)
                    .map(drop)
                    .map_err(|error| error.to_string())
            }
            Self::Toml => Table::parse(text).map(drop).map_err(|error| format!("line {error}")),
        };
        read.map_err(|error| failed(&error))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Yaml => "yaml",
            Self::Toml => "toml",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::OutputFormat;

    #[test]
    fn a_text_is_read_to_its_end() {
        for (format, text, is_right) in [
            ("json", "{\"a\": [1, 2]}\n", true),
            ("json", "{\"a\": hunter2}", false),
            ("json", "{} {}", false),
            ("YAML", "a: 1\n---\n1: b\n", true),
            ("yml", "a: [hunter2\n", false),
            ("toml", "[a]\nb = 1\n", true),
            ("toml", "[a]\nb = hunter2\n", false),
        ] {
            let checked = format.parse::<OutputFormat>().unwrap().check(text.as_bytes());
            assert_eq!(checked.is_ok(), is_right, "{text}: {checked:?}");
            let told = checked.err().unwrap_or_default();
            assert!(!told.contains("hunter2") && (is_right || told.contains("line ")), "{told}");
        }
        assert!("xml".parse::<OutputFormat>().unwrap_err().contains("check_cmd"));
    }
}
