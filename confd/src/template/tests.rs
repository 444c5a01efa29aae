//! The engine against what Go's own text/template says about the same templates and data.

use super::{ANYS, Function, Functions, Limits, MAP, Map, Object, Param, Template, Value};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// One template that Go was given, with its result.
struct Case {
    name: String,
    template: String,
    expected: Result<String, String>,
}

fn cases(file: &str) -> Vec<Case> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let case = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let field = |name: &str| value.get(name).map(|field| field.as_str().unwrap().to_owned());
        let error = field("parse_error").or_else(|| field("exec_error"));
        Case {
            name: field("name").unwrap(),
            template: field("template").unwrap(),
            expected: error.map_or_else(|| Ok(field("expect").unwrap()), Err),
        }
    };
    text.lines().map(case).collect()
}

fn map(entries: &[(&str, Value)]) -> Value {
    Value::map(entries.iter().map(|(key, value)| (Arc::from(key.as_bytes()), value.clone())).collect())
}

/// The data that all cases share.
fn data() -> Value {
    let multiply = Function::new("Fn", &[Param::Int, Param::Int], |args| match args {
        [Value::Int(a), Value::Int(b)] => Ok(Value::Int(a * b)),
        _ => Err("not two integers".to_owned()),
    });
    let ints = |numbers: &[i64]| Value::list("[]int", numbers.iter().map(|&number| Value::Int(number)).collect());
    map(&[
        ("Name", "Bob".into()),
        ("N", 3.into()),
        ("F", 2.5.into()),
        ("Big", 12_345_678_901.into()),
        ("Neg", (-7).into()),
        ("T", true.into()),
        ("Fa", false.into()),
        ("Empty", "".into()),
        ("L", Value::texts(["a", "b", "c"])),
        ("Nums", ints(&[3, 1, 2])),
        ("M", map(&[("zeta", 1.into()), ("alpha", 2.into()), ("mid", map(&[("x", "y".into())]))])),
        ("EL", Value::texts::<&str>([])),
        ("Nil", Value::Nil),
        ("U", map(&[("Name", "Al".into())])),
        ("Html", "<a&b>".into()),
        ("LM", Value::list("[]map[string]interface {}", vec![map(&[("Name", "lm".into())])])),
        ("Fn", Value::Function(Arc::new(multiply))),
    ])
}

/// A stand-in for Go's time, with the one method that the cases call.
struct Moment;

impl Object for Moment {
    fn type_name(&self) -> &'static str {
        "time.Time"
    }

    fn fields(&self) -> Vec<(&'static str, Value)> {
        Vec::new()
    }

    fn method(&self, name: &str) -> Option<Arc<Function>> {
        let format = || Function::new("Format", &[Param::Text], |_| Ok("2026".into()));
        (name == "Format").then(|| Arc::new(format()))
    }
}

fn functions() -> Functions {
    let mut functions = Functions::default();
    functions.add(Function::new("add", &[Param::Int, Param::Int], |args| match args {
        [Value::Int(a), Value::Int(b)] => Ok(Value::Int(a + b)),
        _ => Err("not two integers".to_owned()),
    }));
    let text = |value: &Value| match value {
        Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
        _ => String::new(),
    };
    functions.add(Function::new("fail", &[Param::Text], move |args| Err(text(&args[0]))));
    let store = BTreeMap::from([("/a".to_owned(), "va"), ("/b".to_owned(), "vb")]);
    functions.add(Function::variadic("getv", &[Param::Text], Param::Text, move |args| {
        match (store.get(&text(&args[0])), args.get(1)) {
            (Some(value), _) => Ok((*value).into()),
            (None, Some(default)) => Ok(default.clone()),
            (None, None) => Err(format!("key does not exist: {}", text(&args[0]))),
        }
    }));
    functions.add(Function::new("pairs", &[], |_| {
        let pair = |key: &str, value: &str| {
            let entries = [("Key", key), ("Value", value)];
            let entries = entries.map(|(key, value)| (Arc::from(key.as_bytes()), Value::from(value)));
            Value::Map(Rc::new(Map::new("map[string]string", entries.into())))
        };
        Ok(Value::list("[]map[string]string", vec![pair("/a", "va"), pair("/b", "vb")]))
    }));
    functions.add(Function::new("wrap", &[Param::Any], |args| Ok(Value::list(ANYS, vec![args[0].clone(); 2]))));
    functions.add(Function::new("mk", &[], |_| Ok(map(&[("Name", "mk".into())]))));
    functions.add(Function::new("now", &[], |_| Ok(Value::Object(Rc::new(Moment)))));
    functions
}

fn render(template: &str) -> Result<String, String> {
    let template = Template::parse("t.tmpl", template.as_bytes(), &functions())?;
    let rendered = template.render(&data(), &Limits::default()).map_err(|error| error.text)?;
    Ok(String::from_utf8_lossy(&rendered).into_owned())
}

/// Every case of a file has to give what Go gave.
fn check(file: &str) {
    let mut wrong = Vec::new();
    let cases = cases(file);
    for case in &cases {
        let got = render(&case.template);
        if got != case.expected {
            wrong.push(format!("{}: {:?}\n  got  {got:?}\n  want {:?}", case.name, case.template, case.expected));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn recorded_templates_give_what_go_gives() {
    assert_eq!(MAP, data().type_name());
    check("gotemplate.jsonl");
}

#[test]
fn templates_of_our_own_give_what_go_gives() {
    check("engine.jsonl");
}

/// Made by chance from Go's grammar, some of them damaged by a character or two.
#[test]
fn templates_made_at_random_give_what_go_gives() {
    check("random.jsonl");
}

/// Renders on a stack as large as the limits ask for.
fn render_within(template: &'static str, limits: Limits) -> Result<String, String> {
    let work = move || {
        let template = Template::parse("t.tmpl", template.as_bytes(), &functions())?;
        let rendered = template.render(&data(), &limits).map_err(|error| error.text)?;
        Ok(String::from_utf8_lossy(&rendered).into_owned())
    };
    std::thread::Builder::new().stack_size(Limits::STACK_BYTES).spawn(work).unwrap().join().unwrap()
}

#[test]
fn a_rendering_is_bounded() {
    let short = Limits { time: std::time::Duration::from_millis(50), ..Limits::default() };
    let small = Limits { output_bytes: 1000, ..Limits::default() };
    let end = |template, limits| render_within(template, limits).unwrap_err();
    let endless = "{{define \"r\"}}{{if true}}{{with 1}}{{template \"r\" (print (print .))}}{{end}}{{end}}{{end}}{{template \"r\"}}";
    assert!(end(endless, Limits::default()).ends_with("exceeded maximum template depth (5000)"));
    assert!(end("{{range 1000000000000}}{{end}}", short).ends_with("rendering takes longer than 50ms"));
    assert!(end("{{range 1000}}xxxxx{{end}}", small).ends_with("the output is larger than 1000 bytes"));
    let doubling = "{{$s := \"x\"}}{{range 100}}{{$s = print $s $s}}{{end}}";
    assert!(end(doubling, small).ends_with("the output is larger than 1000 bytes"));
    let deep = "{{$m := .M}}{{range 100000}}{{$m = wrap $m}}{{end}}";
    assert!(end(deep, Limits::default()).ends_with("lists and maps are more than 1000 levels within each other"));
    let again = "{{$m := .M}}{{range 100}}{{$m = wrap $m}}{{end}}{{$m}}";
    assert!(end(again, small).ends_with("the output is larger than 1000 bytes"));
    let wide = end("{{printf \"%1000000d%1000000d\" 1 1}}", small);
    assert!(wide.ends_with("the output is larger than 1000 bytes"), "{wide}");
}

/// As slow as a name that the resolver does not know.
#[test]
fn slow_functions_are_bounded_together() {
    let mut functions = Functions::default();
    let calls = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counter = calls.clone();
    functions.add(Function::new("slow", &[], move |_| {
        counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        std::thread::sleep(std::time::Duration::from_millis(20));
        Ok("x".into())
    }));
    let template = Template::parse("t.tmpl", b"{{range 100}}{{slow}}{{end}}", &functions).unwrap();
    let limits = Limits { time: std::time::Duration::from_millis(50), ..Limits::default() };
    let error = template.render(&Value::Absent, &limits).unwrap_err();
    assert!(error.text.ends_with("rendering takes longer than 50ms"), "{error}");
    // Three sleeps are longer than that.
    assert!(calls.load(std::sync::atomic::Ordering::Relaxed) <= 3);
}

/// A function that renders gets what is left.
#[test]
fn what_a_function_renders_counts() {
    let mut functions = Functions::default();
    functions.add(Function::rendering("left", &[], Param::Any, |_, limits| {
        Ok(format!("{} {} {}", limits.output_bytes, limits.depth, limits.time.as_secs() < 30).as_str().into())
    }));
    let template = Template::parse("t.tmpl", b"12345{{if true}}{{left}}{{end}}", &functions).unwrap();
    let limits = Limits { output_bytes: 100, depth: 10, ..Limits::default() };
    assert_eq!(template.render(&Value::Absent, &limits).unwrap(), b"1234595 9 true");
}

#[test]
fn sources_may_nest_only_so_deeply() {
    let nested = |open: &str, close: &str| format!("{}x{}", open.repeat(100_000), close.repeat(100_000));
    let parse = |source: String| {
        let work = move || Template::parse("t.tmpl", source.as_bytes(), &functions()).map(|_| ());
        std::thread::Builder::new().stack_size(Limits::STACK_BYTES).spawn(work).unwrap().join().unwrap()
    };
    let blocks = parse(nested("{{if .T}}", "{{end}}")).unwrap_err();
    assert_eq!(blocks, "template: t.tmpl:1: blocks are nested too deeply");
    let parens = parse(format!("{{{{{}}}}}", nested("(", ")"))).unwrap_err();
    assert_eq!(parens, "template: t.tmpl:1: max expression depth exceeded");
}

/// What the templates of the next test are made of.
#[rustfmt::skip]
const PIECES: [&str; 49] = [
    "{{", "}}", "{{-", "-}}", "{{ ", " }}", "(", ")", "|", ":=", "=", "$x", "$", ".", ".Name", ".M.mid", "\"a",
    "\"b\"", "`", "'c'", "1", "1.5", "-", "0x", "if", "else", "end", "range", "with", "define", "template", "block",
    "break", "continue", "nil", "true", "printf", "\"%[3]*.*d\"", "index", "slice", "len", "call", ",", " ", "\n",
    "\u{e9}", "/*", "*/", "x",
];

/// Nothing that a template or its delimiters can be made of takes the process down.
#[test]
fn pieces_of_templates_in_any_order_never_panic() {
    let mut state = 1_u64;
    let mut next = |below: usize| {
        // xorshift: the same sequences in every run.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let limits = Limits { output_bytes: 1 << 20, depth: 100, time: std::time::Duration::from_secs(5) };
    let mut parsed = 0;
    for _ in 0..30_000 {
        let mut source = String::new();
        for _ in 0..next(14) {
            source.push_str(PIECES[next(PIECES.len())]);
            if next(3) == 0 {
                source.push(' ');
            }
        }
        let in_action = format!("{{{{{source}}}}}");
        for source in [&source, &in_action] {
            if let Ok(template) = Template::parse("t", source.as_bytes(), &functions()) {
                parsed += 1;
                drop(template.render(&data(), &limits));
            }
        }
    }
    assert!(parsed > 1000, "{parsed} of the sources were templates");
}
