//! Which functions belong to which program.

use super::{Context, Dialect, host, include, store, text, time, yunify};
use crate::template::Functions;
use std::path::PathBuf;

/// The functions of a dialect, on the keys of a context.
pub fn functions(dialect: Dialect, context: &Context) -> Functions {
    functions_within(dialect, context, Vec::new())
}

/// The functions of a file that others include.
pub(super) fn functions_within(dialect: Dialect, context: &Context, including: Vec<PathBuf>) -> Functions {
    let mut functions = Functions::default();
    store::add(&mut functions, dialect, context);
    text::add_common(&mut functions);
    time::add(&mut functions);
    host::add_common(&mut functions, context);
    if dialect == Dialect::Yunify {
        host::add_yunify(&mut functions);
        yunify::add(&mut functions);
        return functions;
    }
    text::add_confd(&mut functions);
    host::add_confd(&mut functions);
    text::add_more(&mut functions);
    host::add_more(&mut functions);
    include::add(&mut functions, dialect, context, including);
    if dialect == Dialect::Abtreece {
        text::add_abtreece(&mut functions);
        host::add_abtreece(&mut functions);
    }
    functions
}
