//! Every op three ways: its fused f32 kernel, the composed fallback in f64 (candle differentiates it), and central
//! differences. Values and all gradients must agree.
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Tensor, Var};
use sidereal_nn::Result;
use sidereal_nn::ops::{self, Attention, CodeHeads, CrossEntropy, ItemCodes, ItemScores, Marked, composed};
use sidereal_nn::rng::Rng;
use sidereal_nn::tolerance::{FINITE_DIFFERENCES, FUSED_AGAINST_COMPOSED, Tolerance};

type Op<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// The composed form in f64 against central differences in f64.
const EXACT: Tolerance = Tolerance { absolute: 1e-6, relative: 1e-5 };

fn normal(shape: &[usize], seed: u64) -> Tensor {
    let mut rng = Rng::new(seed, "gradients");
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.normal() as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn loss(y: &Tensor) -> Tensor {
    let weights = normal(y.dims(), 99).to_dtype(y.dtype()).unwrap();
    (y * weights).unwrap().sum_all().unwrap()
}

fn scalar(t: &Tensor) -> f64 {
    t.to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap()
}

/// Value and gradients by every input, and the loss as a function of one changed element.
fn run(inputs: &[Tensor], dtype: DType, f: Op<'_>) -> (Tensor, Vec<Tensor>) {
    let vars: Vec<Var> = inputs.iter().map(|x| Var::from_tensor(&x.to_dtype(dtype).unwrap()).unwrap()).collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tensors).unwrap();
    let grads = loss(&y).backward().unwrap();
    let grads = vars.iter().map(|v| grads.get(v).expect("every input gets a gradient").clone()).collect();
    (y, grads)
}

fn difference(inputs: &[Tensor], which: usize, at: usize, step: f64, dtype: DType, f: Op<'_>) -> f64 {
    let moved = |by: f64| {
        let mut inputs: Vec<Tensor> = inputs.iter().map(|x| x.to_dtype(dtype).unwrap()).collect();
        let mut values = inputs[which].to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        values[at] += by;
        let x = Tensor::from_vec(values, inputs[which].dims(), &Device::Cpu).unwrap();
        inputs[which] = x.to_dtype(dtype).unwrap();
        scalar(&loss(&f(&inputs).unwrap()))
    };
    (moved(step) - moved(-step)) / (2.0 * step)
}

fn agree(what: &str, tolerance: Tolerance, value: &Tensor, reference: &Tensor) {
    if let Some((at, value, reference)) = tolerance.first_breach(value, reference).unwrap() {
        panic!("{what} at {at}: {value} is not {reference}");
    }
}

fn check(name: &str, inputs: &[Tensor], fused: Op<'_>, composed: Op<'_>) {
    let (y, grads) = run(inputs, DType::F32, fused);
    let (exact_y, exact_grads) = run(inputs, DType::F64, composed);
    agree(&format!("{name}: the value"), FUSED_AGAINST_COMPOSED, &y, &exact_y);
    for (which, (grad, exact)) in grads.iter().zip(&exact_grads).enumerate() {
        agree(&format!("{name}: the gradient of input {which}"), FUSED_AGAINST_COMPOSED, grad, exact);
        let flat = exact.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        for at in (0..flat.len()).step_by(flat.len().div_ceil(25)) {
            let tight = difference(inputs, which, at, 1e-5, DType::F64, composed);
            assert!(EXACT.holds(flat[at], tight), "{name}: input {which} at {at}: {} is not {tight}", flat[at]);
            let loose = difference(inputs, which, at, 1e-2, DType::F32, fused);
            assert!(FINITE_DIFFERENCES.holds(flat[at], loose), "{name}: input {which} at {at}: {} ~ {loose}", flat[at]);
        }
    }
    // Without a tracked input the value is the same, and nothing is recorded.
    let plain = fused(inputs).unwrap();
    agree(&format!("{name}: the untracked value"), Tolerance { absolute: 0.0, relative: 0.0 }, &plain, &y);
    assert!(!plain.track_op());
}

#[test]
fn linear_has_the_gradients_of_a_product() {
    for shape in [&[5usize, 6][..], &[2, 3, 6], &[6]] {
        let (x, w, b) = (normal(shape, 1), normal(&[6, 9], 2), normal(&[9], 3));
        check("linear", &[x.clone(), w.clone()], &|i| ops::linear(&i[0], &i[1]), &|i| composed::linear(&i[0], &i[1]));
        check("linear_bias", &[x.clone(), w, b], &|i| ops::linear_bias(&i[0], &i[1], &i[2]), &|i| {
            composed::linear_bias(&i[0], &i[1], &i[2])
        });
        let table = normal(&[11, 6], 4);
        check("tied_head", &[x, table], &|i| ops::tied_head(&i[0], &i[1]), &|i| composed::tied_head(&i[0], &i[1]));
    }
}

#[test]
fn layer_norm_has_the_gradients_of_its_formula() {
    for shape in [&[3, 5][..], &[2, 2, 37]] {
        let width = shape[shape.len() - 1];
        let inputs = [normal(shape, 1), normal(&[width], 2), normal(&[width], 3)];
        let fused = |i: &[Tensor]| ops::layer_norm(&i[0], &i[1], &i[2], 1e-3);
        check("layer_norm", &inputs, &fused, &|i| composed::layer_norm(&i[0], &i[1], &i[2], 1e-3));
    }
}

#[test]
fn rms_norm_has_the_gradients_of_its_formula() {
    for width in [1, 7, 16, 35] {
        let inputs = [normal(&[3, 2, width], 1), normal(&[width], 2)];
        check("rms_norm", &inputs, &|i| ops::rms_norm(&i[0], &i[1], 1e-3), &|i| composed::rms_norm(&i[0], &i[1], 1e-3));
    }
}

#[test]
fn activations_have_their_slopes() {
    let x = [normal(&[7, 9], 1)];
    check("relu", &x, &|i| ops::relu(&i[0]), &|i| Ok(i[0].relu()?));
    check("gelu", &x, &|i| ops::gelu(&i[0]), &|i| composed::gelu(&i[0]));
    check("gelu_tanh", &x, &|i| ops::gelu_tanh(&i[0]), &|i| composed::gelu_tanh(&i[0]));
    check("silu", &x, &|i| ops::silu(&i[0]), &|i| composed::silu(&i[0]));
}

#[test]
fn dropout_passes_the_gradient_where_it_passes_the_value() {
    let inputs = [normal(&[9, 11], 1), normal(&[9, 11], 2)];
    check("dropout", &inputs[..1], &|i| ops::dropout(&i[0], 0.3, 7), &|i| composed::dropout(&i[0], 0.3, 7));
    for p in [0.0, 0.3] {
        check("add_dropout", &inputs, &|i| ops::add_dropout(&i[0], &i[1], p, 7), &|i| {
            Ok((&i[0] + composed::dropout(&i[1], p, 7)?)?)
        });
    }
}

#[test]
fn embedding_adds_up_the_gradients_of_repeated_ids() {
    let ids = Tensor::new(&[[1u32, 4, 1], [0, 1, 3]], &Device::Cpu).unwrap();
    let table = [normal(&[5, 4], 1)];
    check("embedding", &table, &|i| ops::embedding(&ids, &i[0]), &|i| composed::embedding(&ids, &i[0]));
}

#[test]
fn feed_forward_is_its_three_steps() {
    let inputs = [normal(&[2, 3, 5], 1), normal(&[5, 8], 2), normal(&[8, 4], 3)];
    for drop in [None, Some((0.0, 1)), Some((0.4, 9))] {
        check("feed_forward_relu", &inputs, &|i| ops::feed_forward_relu(&i[0], &i[1], &i[2], drop), &|i| {
            composed::feed_forward_relu(&i[0], &i[1], &i[2], drop)
        });
    }
}

#[test]
fn cross_entropy_counts_only_kept_rows() {
    let logits = [normal(&[6, 21], 1)];
    let targets = Tensor::new(&[3u32, 0, 20, 999, 3, 0], &Device::Cpu).unwrap();
    for label_smoothing in [0.0, 0.1, 1.0] {
        for temperature in [1.0, 0.5] {
            let args = CrossEntropy { label_smoothing, temperature, ignore: Some(999) };
            check("cross_entropy", &logits, &|i| ops::cross_entropy(&i[0], &targets, &args), &|i| {
                composed::cross_entropy(&i[0], &targets, &args)
            });
        }
    }
}

/// Small pairs take loops, large ones products: both sides of the threshold are here.
const ATTENTION_SIZES: [[usize; 5]; 5] =
    [[2, 2, 3, 5, 4], [3, 3, 1, 6, 8], [2, 2, 12, 12, 8], [1, 2, 4, 40, 5], [9, 1, 1, 1, 3]];

#[test]
fn attention_is_differentiable_in_queries_keys_values_and_bias() {
    for [batch, heads, queries, keys, width] in ATTENTION_SIZES {
        let q = normal(&[batch, queries, heads * width], 1);
        let kv = normal(&[batch, keys, 2 * heads * width], 2);
        let bias = normal(&[heads, queries, keys], 3);
        let hidden: Vec<f32> =
            (0..batch * keys).map(|i| if i % keys != 0 && i % 3 == 1 { f32::NEG_INFINITY } else { 0.0 }).collect();
        let mask = Tensor::from_vec(hidden, (batch, keys), &Device::Cpu).unwrap();
        for dropout in [None, Some((0.25, 5))] {
            for key_mask in [None, Some(mask.clone())] {
                let causal = dropout.is_some();
                let args = Attention { heads, scale: 0.7, key_mask, dropout, causal };
                check(
                    "attention with bias",
                    &[q.clone(), kv.clone(), bias.clone()],
                    &|i| ops::attention(&i[0], &i[1], Some(&i[2]), &args),
                    &|i| composed::attention(&i[0], &i[1], Some(&i[2]), &args),
                );
                check("attention", &[q.clone(), kv.clone()], &|i| ops::attention(&i[0], &i[1], None, &args), &|i| {
                    composed::attention(&i[0], &i[1], None, &args)
                });
            }
        }
    }
}

#[test]
fn a_fully_masked_row_gives_zeros_and_passes_no_gradient() {
    for [batch, heads, queries, keys, width] in ATTENTION_SIZES {
        let values: Vec<f32> = (0..batch * keys).map(|i| if i < keys { f32::NEG_INFINITY } else { 0.0 }).collect();
        let key_mask = Some(Tensor::from_vec(values, (batch, keys), &Device::Cpu).unwrap());
        let args = Attention { key_mask, ..Attention::new(heads, 1.0) };
        let inputs = [
            normal(&[batch, queries, heads * width], 1),
            normal(&[batch, keys, 2 * heads * width], 2),
            normal(&[heads, queries, keys], 3),
        ];
        let fused: Op<'_> = &|i| ops::attention(&i[0], &i[1], Some(&i[2]), &args);
        check("masked attention", &inputs, fused, &|i| composed::attention(&i[0], &i[1], Some(&i[2]), &args));
        let (y, grads) = run(&inputs, DType::F32, fused);
        for first in [y.get(0).unwrap(), grads[0].get(0).unwrap(), grads[1].get(0).unwrap()] {
            assert!(first.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().all(|v| *v == 0.0));
        }
    }
}

#[test]
fn inputs_that_are_views_are_read_through_their_strides() {
    let (x, w) = (normal(&[6, 5], 1), normal(&[9, 6], 2));
    check("linear of views", &[x, w], &|i| ops::linear(&i[0].t()?, &i[1].t()?), &|i| {
        composed::linear(&i[0].t()?.contiguous()?, &i[1].t()?.contiguous()?)
    });
    let wide = [normal(&[2, 3, 24], 1)];
    let halves = |x: &Tensor| Ok::<_, sidereal_nn::Error>((x.narrow(2, 0, 8)?, x.narrow(2, 8, 16)?));
    let args = Attention::new(2, 1.0);
    check(
        "attention of a packed projection",
        &wide,
        &|i| halves(&i[0]).and_then(|(q, kv)| ops::attention(&q, &kv, None, &args)),
        &|i| halves(&i[0]).and_then(|(q, kv)| composed::attention(&q.contiguous()?, &kv.contiguous()?, None, &args)),
    );
}

#[test]
fn a_bag_of_rows_has_the_gradient_of_its_sum() {
    let ids = Tensor::from_vec(vec![0u32, 3, 3, 4, 1, 0, 2, 2, 2, 4, 0, 1], (4, 3), &Device::Cpu).unwrap();
    let table = [normal(&[5, 7], 1)];
    check("embedding_bag", &table, &|i| ops::embedding_bag(&ids, &i[0], 0.4), &|i| {
        composed::embedding_bag(&ids, &i[0], 0.4)
    });
    let outside = Tensor::from_vec(vec![0u32, 5], (1, 2), &Device::Cpu).unwrap();
    assert!(ops::embedding_bag(&outside, &table[0], 1.0).unwrap_err().to_string().contains("id 5"));
}

#[test]
fn code_heads_have_the_gradients_of_their_formula() {
    for unit in [false, true] {
        let args = CodeHeads { codes: vec![4, 2, 3], unit };
        let inputs = [normal(&[6, 5], 1), normal(&[3, 6, 5], 2), normal(&[9, 5], 3)];
        check("code_heads", &inputs, &|i| ops::code_heads(&i[0], &i[1], &i[2], &args), &|i| {
            composed::code_heads(&i[0], &i[1], &i[2], &args)
        });
        let error = ops::code_heads(&inputs[0], &inputs[1], &normal(&[8, 5], 3), &args).unwrap_err().to_string();
        assert!(error.contains("table") && error.contains("[9, 5]"), "{error}");
    }
}

#[test]
fn a_cross_entropy_over_items_has_the_gradient_of_its_sums() {
    // Five levels: four are looked up at once and one alone.
    let codes: Vec<u32> = (0..35u32).map(|i| i % 5 * 3 + (i * i / 5 + i) % 3).collect();
    let items = ItemCodes::new(&codes, 5).unwrap();
    let targets = Tensor::from_vec(vec![0u32, 6, 3, 3], 4, &Device::Cpu).unwrap();
    let marked = Marked::new([&[0u32, 6, 6][..], &[], &[2], &[3, 1]]);
    assert_eq!((marked.rows(), marked.row(0), marked.row(3)), (4, &[0, 6][..], &[1, 3][..]));
    let inputs = [normal(&[4, 15], 1), normal(&[1], 2)];
    let plain = ItemScores { items: &items, scale: 0.7, bonus: None };
    check("item_cross_entropy", &inputs[..1], &|i| ops::item_cross_entropy(&i[0], &targets, &plain), &|i| {
        composed::item_cross_entropy(&i[0], &targets, &plain)
    });
    check(
        "item_cross_entropy with a bonus",
        &inputs,
        &|i| ops::item_cross_entropy(&i[0], &targets, &ItemScores { bonus: Some((&i[1], &marked)), ..plain }),
        &|i| composed::item_cross_entropy(&i[0], &targets, &ItemScores { bonus: Some((&i[1], &marked)), ..plain }),
    );
    let other = Tensor::from_vec(vec![0u32, 6, 3, 7], 4, &Device::Cpu).unwrap();
    assert!(ops::item_cross_entropy(&inputs[0], &other, &plain).unwrap_err().to_string().contains("target 7"));
    assert!(ops::item_cross_entropy(&normal(&[4, 14], 1), &targets, &plain).is_err());
    assert!(ItemCodes::new(&codes, 4).is_err());
}

#[test]
fn a_number_added_at_some_places_collects_their_gradients() {
    let marked = Marked::new([&[4u32, 0][..], &[], &[2, 2]]);
    let inputs = [normal(&[3, 5], 1), normal(&[1], 2)];
    check("add_marked", &inputs, &|i| ops::add_marked(&i[0], &i[1], &marked), &|i| {
        composed::add_marked(&i[0], &i[1], &marked)
    });
    let wrong = |rows: &[&[u32]]| ops::add_marked(&inputs[0], &inputs[1], &Marked::new(rows.iter().copied()));
    assert!(wrong(&[&[0], &[1]]).unwrap_err().to_string().contains("2 rows are marked"));
    assert!(wrong(&[&[0], &[5], &[]]).unwrap_err().to_string().contains("column 5"));
    assert!(ops::add_marked(&inputs[0], &inputs[0], &marked).is_err());
}
