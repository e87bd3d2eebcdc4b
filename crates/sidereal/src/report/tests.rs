#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;

use super::*;
use crate::evaluation::{Agreement, Comparison, DomainFigures, DomainRow, Metrics, Modes, RowDetail};

const BASELINES: [(&str, f64); 5] =
    [("popularity", 0.1), ("transitions", 0.7), ("text-neighbour", 0.5), ("neighbours", 0.9), ("fused", 1.2)];

fn metrics(scale: f64) -> Metrics {
    let names = ["recall@1", "recall@5", "recall@10", "ndcg@5", "ndcg@10", "mrr", "coverage@10", "gini@10"];
    names.into_iter().zip(1..).map(|(name, i)| (name.to_owned(), scale * 0.012 * f64::from(i))).collect()
}

fn detail(metrics: &Metrics) -> RowDetail {
    let intervals = metrics.iter().map(|(name, value)| (name.clone(), [value * 0.93, value * 1.08])).collect();
    let buckets = [("head", 1.7, 1_203.0), ("mid", 0.9, 840.0), ("tail", 0.5, 611.0), ("cold", 0.02, 97.0)];
    let bucket = |(name, scale, users): (&str, f64, f64)| {
        let value = metrics["recall@10"] * scale;
        let values = [("users", users), ("items", 500.0), ("recall@10", value), ("ndcg@10", value / 2.0)];
        (name.to_owned(), values.map(|(name, value)| (name.to_owned(), value)).into())
    };
    let history = [("short", 0.8, 1_400.0), ("mid", 1.0, 700.0), ("long", 1.3, 651.0)].map(bucket).into();
    let sets = [("in_set", 1.1, 2_654.0), ("cold", 0.02, 97.0)].map(bucket).into();
    RowDetail { intervals, buckets: buckets.map(bucket).into(), history, sets }
}

fn modes<T>(no_filter: T, seen_removed: T) -> Modes<T> {
    Modes { no_filter, seen_removed }
}

/// `strength` of the generator; the best baseline has 1.2.
fn evaluation(strength: f64) -> Evaluation {
    let rows = [("tiger", strength)].into_iter().chain(BASELINES);
    let rows: Vec<(&str, Modes<Metrics>)> =
        rows.map(|(name, scale)| (name, modes(metrics(scale), metrics(scale * 1.04 + 0.05)))).collect();
    let mut comparisons = Vec::new();
    for (at, (row, ours)) in rows.iter().enumerate() {
        for (with, theirs) in &rows[at + 1..] {
            for ((mode, ours), (_, theirs)) in ours.each().into_iter().zip(theirs.each()) {
                for metric in ["recall@10", "ndcg@10"] {
                    let difference = ours[metric] - theirs[metric];
                    let interval = [difference - 0.004, difference + 0.0045];
                    let p_value = if interval[0] > 0.0 || interval[1] < 0.0 { 0.0001 } else { 0.21 };
                    let [row, with, mode, metric] = [*row, *with, mode, metric].map(str::to_owned);
                    comparisons.push(Comparison { row, with, mode, metric, difference, interval, p_value });
                }
            }
        }
    }
    Evaluation {
        split: "test".to_owned(),
        users: 22_363,
        items: 12_101,
        beam: 50.into(),
        precision: sidereal_nn::kernels::Precision::F32,
        generator: Some("tiger".to_owned()),
        catalog_version: "9f31c2a4".to_owned(),
        no_filter: Some(rows[0].1.no_filter.clone()),
        seen_removed: Some(rows[0].1.seen_removed.clone()),
        trained: BTreeMap::new(),
        baselines: rows[1..].iter().map(|(name, modes)| ((*name).to_owned(), modes.clone())).collect(),
        details: rows
            .iter()
            .map(|(name, both)| ((*name).to_owned(), modes(detail(&both.no_filter), detail(&both.seen_removed))))
            .collect(),
        domains: Vec::new(),
        exact: BTreeMap::new(),
        comparisons,
        verdict: vec!["tiger beats popularity on the whole catalog: NDCG@10 +0.0540".to_owned()],
        invalid_rate: 0.0,
        duplicate_rate: 0.0,
        mean_history_length: 7.88,
        seconds: 312.4,
    }
}

fn tokenizer() -> TokenizerView {
    let counts = |level: u32| {
        (0..256u32)
            .map(|code| if code * level % 97 == 5 { 0 } else { 12_101 / (20 + code * level) })
            .collect::<Vec<_>>()
    };
    let code_counts: Vec<Vec<u32>> = (1..=3).map(counts).collect();
    TokenizerView {
        items: 12_101,
        unique_ids: 11_034,
        collision_rate: 0.0882,
        max_bucket: 23,
        levels: [(256, 187.3), (251, 160.2), (249, 150.9)]
            .map(|(used, perplexity)| LevelView { used, codes: 256, perplexity })
            .into(),
        prefixes: vec![256, 7_911, 11_034],
        code_counts,
        bucket_sizes: [(1, 10_412), (2, 455), (3, 98), (4, 31), (5, 20), (6, 9), (7, 3), (9, 3), (12, 2), (23, 1)]
            .into(),
    }
}

fn training() -> Vec<TrainingPoint> {
    let mut points = Vec::new();
    for step in (50..=20_000u64).step_by(50) {
        let at = step as f64;
        let loss = 2.1 + 3.4 * (-at / 2_500.0).exp() + 0.08 * ((step * 37 % 101) as f64 / 101.0 - 0.5);
        points.push(TrainingPoint {
            step,
            loss: Some(loss),
            learning_rate: Some(1e-3),
            samples_per_s: Some(190.0 + (step % 7) as f64),
            validation: None,
        });
        if step % 1_000 == 0 {
            let value = 0.045 * (1.0 - (-at / 4_000.0).exp()) - 1e-11 * (at - 14_000.0).powi(2);
            let figures = [("ndcg@10", value), ("recall@10", value * 1.8), ("users", 1_000.0), ("beam", 20.0)];
            let validation = figures.map(|(name, value)| (name.to_owned(), value)).into();
            points.push(TrainingPoint { step, validation: Some(validation), ..TrainingPoint::default() });
        }
    }
    points
}

fn item(number: usize) -> ItemView {
    const TITLES: [&str; 5] = [
        "Aveda Brilliant Humectant Pomade, 2.6 Ounce",
        "Paul Mitchell Tea Tree Special Shampoo",
        "OPI Nail Lacquer, Bubble Bath",
        "Neutrogena Ultra Sheer Dry-Touch Sunscreen SPF 55, Broad Spectrum, 3 Fluid Ounce (Pack of 2), the one with the green cap",
        "\u{5e2d}\u{7b80}\u{8bc6} \u{30d8}\u{30a2}\u{30aa}\u{30a4}\u{30eb}",
    ];
    let title = (number % 6 != 5).then(|| TITLES[number % 6].to_owned());
    ItemView { item_id: format!("B00{:07}", number * 7_919), title }
}

fn user(name: &str, events: usize, hit: Option<usize>) -> UserStory {
    let scored = |at: usize| ScoredView {
        item: item(at + 2),
        score: -1.7 - 0.31 * at as f64,
        is_target: hit == Some(at),
        semantic_id: vec![17 * at as u16 % 256, 201, 9 + at as u16],
    };
    UserStory {
        user: name.to_owned(),
        history: (0..events).map(item).collect(),
        target: Some(item(hit.map_or(31, |at| at + 2))),
        recommendations: (0..10).map(scored).collect(),
    }
}

fn full() -> ReportData {
    let facts = [
        ("users", "22,363"),
        ("items", "12,101"),
        ("interactions", "198,502"),
        ("mean history", "8.9"),
        ("catalog version", "9f31c2a4d7e0"),
        ("generator", "tiger, 4,853,120 parameters, weights of step 18000"),
        ("seed", "2026"),
    ];
    ReportData {
        title: "Beauty, the quick way".to_owned(),
        facts: facts.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        recipe_toml: "seed = 2026\n\n[tokenizer.rq-kmeans]\nlevels = 3\ncodes = 256\n\n[generator]\nsteps = 20000\n"
            .to_owned(),
        evaluation: Some(evaluation(1.0)),
        accuracy: None,
        tokenizer: Some(tokenizer()),
        training: training(),
        users: vec![user("A1YJEY40YUW4SE", 5, Some(2)), user("A3NHUQ33CFH3VM", 31, None)],
    }
}

const SECTIONS: [&str; 7] = ["figures", "popularity", "training", "tokenizer", "users", "facts", "recipe"];

fn has(page: &str, section: &str) -> bool {
    let (id, link) = (format!("id=\"{section}\""), format!("href=\"#{section}\""));
    assert_eq!(page.contains(&id), page.contains(&link), "{section}: the list of sections and the page differ");
    page.contains(&id)
}

/// Every tag that is opened is closed, in order.
fn check_tags(page: &str) {
    const VOID: [&str; 3] = ["meta", "br", "!DOCTYPE"];
    let mut open: Vec<&str> = Vec::new();
    for tag in page.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap();
        let name = tag.trim_end_matches('/').split_whitespace().next().unwrap_or_default();
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None if tag.ends_with('/') || VOID.contains(&name) => {}
            None => open.push(name),
        }
    }
    assert_eq!(open, Vec::<&str>::new());
}

#[test]
fn a_whole_run_shows_every_section() {
    let page = render(&full()).unwrap();
    assert!(SECTIONS.iter().all(|section| has(&page, section)));
    for said in ["tiger does not beat every baseline", "Whole catalog: beats 4 of 5 baselines", "Paired tests between"]
    {
        assert!(page.contains(said), "{said}");
    }
    assert!(page.contains("Validation") && page.contains("Level 3") && page.contains("Recommended at rank 3."));
    check_tags(&page);
}

#[test]
fn figures_by_domain_have_a_section_where_there_are_several() {
    let mut data = full();
    assert!(!has(&render(&data).unwrap(), "domains"));
    let figures = |recall: f64| {
        let metrics = || Metrics::from([("recall@10".to_owned(), recall), ("ndcg@10".to_owned(), f64::NAN)]);
        Modes { no_filter: metrics(), seen_removed: metrics() }
    };
    let row = DomainRow { whole: figures(0.1234), within: figures(0.4321) };
    let rows = [("tiger".to_owned(), row.clone()), ("no such row".to_owned(), row)].into();
    let domain = DomainFigures { name: "games & <toys>".to_owned(), users: 7, items: 1_200, rows };
    data.evaluation.as_mut().unwrap().domains = vec![domain];
    let page = render(&data).unwrap();
    assert!(has(&page, "domains"));
    for said in ["games &amp; &lt;toys&gt;: 7 users and 1,200 items", "0.1234", "0.4321", "recall@10, its items"] {
        assert!(page.contains(said), "{said}");
    }
    assert!(!page.contains("no such row") && !page.contains("NaN"));
    check_tags(&page);
}

#[test]
fn what_is_absent_is_left_out_and_nothing_else_is() {
    type Change = fn(&mut ReportData);
    let leave_out: [(&[&str], Change); 6] = [
        (&["figures", "popularity"], |data| data.evaluation = None),
        (&["training"], |data| data.training.clear()),
        (&["tokenizer"], |data| data.tokenizer = None),
        (&["users"], |data| data.users.clear()),
        (&["facts"], |data| data.facts.clear()),
        (&["recipe"], |data| data.recipe_toml = "\n".to_owned()),
    ];
    for (gone, change) in leave_out {
        let mut data = full();
        change(&mut data);
        let page = render(&data).unwrap();
        for section in SECTIONS {
            assert_eq!(has(&page, section), !gone.contains(&section), "{section} without {gone:?}");
        }
        check_tags(&page);
    }
}

#[test]
fn empty_data_is_a_page_too() {
    let mut hollow = ReportData {
        evaluation: Some(Evaluation::default()),
        tokenizer: Some(TokenizerView::default()),
        training: vec![TrainingPoint::default()],
        users: vec![UserStory::default()],
        ..ReportData::default()
    };
    hollow.tokenizer.as_mut().unwrap().code_counts = vec![vec![], vec![0; 4]];
    for data in [ReportData::default(), hollow] {
        let page = render(&data).unwrap();
        check_tags(&page);
        assert!(!page.contains("NaN") && page.contains("<h1 dir=\"auto\">Run</h1>"));
    }
    assert!(render(&ReportData::default()).unwrap().contains("nothing to show yet"));
}

#[test]
fn text_of_the_data_is_never_markup() {
    const ATTACK: &str = "</style></title><script>alert(\"x\")</script><img src=x onerror='y'>{{ 7 * 7 }}&amp;";
    let item = ItemView { item_id: ATTACK.to_owned(), title: Some(ATTACK.to_owned()) };
    let mut evaluation = evaluation(1.0);
    let row = evaluation.baselines.remove("fused").unwrap();
    evaluation.baselines.insert(ATTACK.to_owned(), row);
    let details = evaluation.details.remove("fused").unwrap();
    evaluation.details.insert(ATTACK.to_owned(), details);
    for test in &mut evaluation.comparisons {
        for name in [&mut test.row, &mut test.with] {
            if name == "fused" {
                *name = ATTACK.to_owned();
            }
        }
    }
    (evaluation.split, evaluation.catalog_version) = (ATTACK.to_owned(), ATTACK.to_owned());
    evaluation.verdict = vec![ATTACK.to_owned()];
    let validation = Some(BTreeMap::from([("ndcg@10".to_owned(), 0.1), (format!("{ATTACK}@"), 0.1)]));
    let scored = ScoredView { item: item.clone(), is_target: true, ..ScoredView::default() };
    let story = UserStory {
        user: ATTACK.to_owned(),
        history: vec![item.clone()],
        target: Some(item),
        recommendations: vec![scored],
    };
    let page = render(&ReportData {
        title: ATTACK.to_owned(),
        facts: vec![(ATTACK.to_owned(), ATTACK.to_owned())],
        recipe_toml: ATTACK.to_owned(),
        evaluation: Some(evaluation),
        accuracy: None,
        tokenizer: None,
        training: vec![TrainingPoint { step: 1, validation, ..TrainingPoint::default() }],
        users: vec![story],
    })
    .unwrap();
    for markup in ["<script", "<img", "49&amp;"] {
        assert!(!page.contains(markup), "{markup}");
    }
    assert_eq!(page.matches("</style>").count(), 1);
    assert!(page.matches("&lt;script&gt;").count() >= 15);
    check_tags(&page);
}

#[test]
fn the_page_asks_for_no_other_file() {
    let page = render(&full()).unwrap();
    for outside in ["http:", "https:", "src=", "url(", "@import", "<link", "<script", "<iframe", "@font-face", "file:"]
    {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.matches("href=").count() == page.matches("href=\"#").count());
}

#[test]
fn the_same_data_is_the_same_bytes_on_any_thread() {
    let pages: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| render(&full()).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(pages.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn a_generator_is_never_shown_better_than_its_tests_say() {
    let cases = [
        (1.4, "verdict beaten", "tiger beats every baseline in both modes"),
        (1.21, "verdict not-told-apart", "not told apart from every one"),
        (1.0, "verdict ahead", "tiger does not beat every baseline"),
        (0.01, "verdict ahead", "tiger does not beat any baseline"),
    ];
    for (strength, class, headline) in cases {
        let page = render(&ReportData { evaluation: Some(evaluation(strength)), ..full() }).unwrap();
        assert!(page.contains(class) && page.contains(headline), "{strength}: {headline}");
    }
    // A test that is told from the baseline's side is turned round, not believed as it stands.
    let mut turned = evaluation(1.0);
    for test in &mut turned.comparisons {
        std::mem::swap(&mut test.row, &mut test.with);
        test.difference = -test.difference;
        test.interval = [-test.interval[1], -test.interval[0]];
    }
    let page = render(&ReportData { evaluation: Some(turned), ..full() }).unwrap();
    assert!(page.contains("tiger does not beat every baseline") && page.contains("Whole catalog: beats 4 of 5"));
}

#[test]
fn without_tests_or_without_a_generator_the_page_says_so() {
    let mut untested = evaluation(1.4);
    untested.comparisons.clear();
    let page = render(&ReportData { evaluation: Some(untested), ..full() }).unwrap();
    assert!(page.contains("Not every pair has a paired test"));
    let mut baselines = evaluation(1.0);
    (baselines.no_filter, baselines.seen_removed) = (None, None);
    baselines.generator = None;
    baselines.comparisons.retain(|test| test.row != "tiger");
    let page = render(&ReportData { evaluation: Some(baselines), ..full() }).unwrap();
    assert!(page.contains("Baselines only. The best of them: fused"));
    check_tags(&page);
}

#[test]
fn rankings_with_faults_are_called_a_defect() {
    for rate in [1e-9, f64::NAN] {
        let evaluation = Evaluation { invalid_rate: rate, ..evaluation(1.4) };
        let page = render(&ReportData { evaluation: Some(evaluation), ..full() }).unwrap();
        assert!(page.contains("cannot be trusted"), "{rate}");
    }
}

#[test]
fn what_decoding_finds_of_exact_scoring_stands_on_the_page_where_it_was_asked() {
    let mut evaluation = evaluation(1.4);
    let page = |evaluation: &Evaluation| {
        render(&ReportData { evaluation: Some(evaluation.clone()), ..ReportData::default() }).unwrap()
    };
    assert!(!page(&evaluation).contains("Beside exact scoring"));
    let agreement = Agreement { users: 300, items: 10, share: 0.981, interval: [0.97, 0.99] };
    evaluation.exact.insert("tiger".to_owned(), agreement);
    let page = page(&evaluation);
    for part in ["Beside exact scoring", "0.9810", "0.9700", "300 users", "best 10 of all items"] {
        assert!(page.contains(part), "{part}");
    }
    check_tags(&page);
}

#[test]
fn the_best_of_a_column_is_marked_ties_included() {
    let mut evaluation = evaluation(0.2);
    let best = evaluation.baselines["fused"].clone();
    evaluation.baselines.insert("twin".to_owned(), best);
    let page = render(&ReportData { evaluation: Some(evaluation), ..ReportData::default() }).unwrap();
    assert_eq!(page.matches("class=\"best\"").count(), 2 * 6 * 2); // modes, columns, twins
}

#[test]
fn numbers_of_any_kind_make_a_page() {
    let wild = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, f64::MIN_POSITIVE, 0.0, -0.0, 1e12];
    for value in wild {
        let mut data = full();
        let evaluation = data.evaluation.as_mut().unwrap();
        for rows in evaluation.baselines.values_mut() {
            rows.no_filter.values_mut().for_each(|metric| *metric = value);
        }
        for modes in evaluation.details.values_mut() {
            modes.no_filter.intervals.values_mut().for_each(|interval| *interval = [value, value]);
            modes.no_filter.buckets.values_mut().flat_map(BTreeMap::values_mut).for_each(|metric| *metric = value);
        }
        for test in &mut evaluation.comparisons {
            (test.difference, test.interval, test.p_value) = (value, [value, value], value);
        }
        (evaluation.seconds, evaluation.mean_history_length) = (value, value);
        for point in &mut data.training {
            point.loss = Some(value);
            (point.learning_rate, point.samples_per_s) = (Some(value), Some(value));
            if let Some(metrics) = &mut point.validation {
                metrics.values_mut().for_each(|metric| *metric = value);
            }
        }
        data.users[0].recommendations[0].score = value;
        let page = render(&data).unwrap();
        check_tags(&page);
        assert!(!page.contains("NaN") && !page.contains(">inf"), "{value}");
    }
}

#[test]
fn the_largest_numbers_and_one_single_point_make_a_page() {
    let mut data = full();
    let point = TrainingPoint { step: u64::MAX, loss: Some(2.5), ..TrainingPoint::default() };
    data.training = vec![point];
    let evaluation = data.evaluation.as_mut().unwrap();
    (evaluation.users, evaluation.items, evaluation.beam) = (usize::MAX, usize::MAX, usize::MAX.into());
    data.tokenizer = Some(TokenizerView {
        items: usize::MAX,
        unique_ids: usize::MAX,
        max_bucket: usize::MAX,
        levels: vec![LevelView { used: usize::MAX, codes: usize::MAX, perplexity: f64::MAX }],
        prefixes: vec![usize::MAX],
        code_counts: vec![vec![u32::MAX; 10_000]],
        bucket_sizes: (0..70).map(|bit| (usize::MAX >> (bit % 64), usize::MAX)).collect(),
        ..TokenizerView::default()
    });
    let page = render(&data).unwrap();
    check_tags(&page);
    assert!(page.contains("18,446,744,073,709,551,615"));
}

#[test]
fn long_histories_are_shortened_and_counted() {
    let page = render(&ReportData { users: vec![user("u", 31, None)], ..ReportData::default() }).unwrap();
    assert!(page.contains("After 19 earlier events:") && page.contains("<ol start=\"20\">"));
    assert!(page.contains("Not among the 10 recommendations shown."));
}
