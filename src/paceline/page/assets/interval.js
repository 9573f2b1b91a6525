// The exact interval of Clopper and Pearson (1934) for a share, by bisection on the binomial distribution; for up to thousands.

function logFactorials(count) {
  const found = [0];
  for (let k = 1; k <= count; k++) found.push(found[k - 1] + Math.log(k));
  return found;
}

function atLeast(hits, count, share, logs) {
  let sum = 0;
  for (let k = hits; k <= count; k++) {
    sum += Math.exp(
      logs[count] - logs[k] - logs[count - k] + k * Math.log(share) + (count - k) * Math.log1p(-share),
    );
  }
  return sum;
}

function root(rising) {
  let low = 0;
  let high = 1;
  for (let step = 0; step < 50; step++) {
    const middle = (low + high) / 2;
    if (rising(middle) < 0) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

export function exactInterval(hits, count, confidence = 0.95) {
  const tail = (1 - confidence) / 2;
  const logs = logFactorials(count);
  return {
    low: hits === 0 ? 0 : root((share) => atLeast(hits, count, share, logs) - tail),
    high: hits === count ? 1 : root((share) => atLeast(hits + 1, count, share, logs) - (1 - tail)),
  };
}
