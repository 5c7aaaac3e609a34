/* Established connections that Python has lent us.  Read first: tcp_flow.h; then src/swos_net/tcp/prediction.py,
 * acknowledgment.py, text.py, receive_window.py and output.py, whose common case this is, in their order and with their
 * arithmetic: a connection goes on the same whoever holds it.  Not here: loss, recovery, windows that grow or close,
 * options but timestamps, SYN, FIN and RST. */
#include "tcp_flow.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

_Static_assert(BATCH_SEGMENTS <= BURST_FRAMES, "there is place for everybody's news");

enum { TCP_PSH = 8, TCP_ACK = 16, PROTOCOL_TCP = 6, TIMESTAMPS_LENGTH = 12, SEGMENTS_AHEAD = 16 };

static const double WORST_DELAYED_ACK = 0.2;     /* RFC 8985 7.2: WCDelAckT */
static const double TUNING_INTERVAL_MIN = 0.001; /* seconds */

/* The table */

static uint64_t mixed(uint64_t value)
{
    value ^= value >> 32;
    value *= 0xd6e8feb86659fd93u;
    value ^= value >> 32;
    return value;
}

static uint32_t bucket_of(const flow_table *table, const uint8_t *key)
{
    uint64_t words[4], hash = table->seed;
    uint32_t ports;
    memcpy(words, key, sizeof words);
    memcpy(&ports, key + 32, sizeof ports);
    for (int i = 0; i < 4; i++)
        hash = mixed(hash ^ words[i]);
    return (uint32_t)mixed(hash ^ ports) & (table->bucket_count - 1);
}

static void insert(flow_table *table, tcp_flow *flow)
{
    tcp_flow **bucket = &table->buckets[bucket_of(table, flow->key)];
    flow->next = *bucket;
    *bucket = flow;
}

void flow_table_use(flow_table *table, tcp_flow **buckets, uint32_t count)
{
    tcp_flow **before = table->buckets;
    uint32_t count_before = table->bucket_count;
    table->buckets = buckets;
    table->bucket_count = count;
    for (uint32_t i = 0; i < count_before; i++) {
        tcp_flow *next;
        for (tcp_flow *flow = before[i]; flow; flow = next) {
            next = flow->next;
            insert(table, flow);
        }
    }
}

void flow_table_add(flow_table *table, tcp_flow *flow)
{
    flow->news = 0;
    flow->lent = 1;
    flow->left_to_python = table->burst_number;
    insert(table, flow);
}

void flow_table_remove(flow_table *table, tcp_flow *flow)
{
    tcp_flow **link = &table->buckets[bucket_of(table, flow->key)];
    flow->lent = 0;
    while (*link && *link != flow)
        link = &(*link)->next;
    if (!*link)
        return;
    *link = flow->next;
    flow->next = NULL;
}

_Static_assert(offsetof(frame_record, local) == 0 && offsetof(frame_record, verdict) == sizeof(((tcp_flow *)0)->key), "a record begins with its flow");

static tcp_flow *find(const flow_table *table, const frame_record *record)
{
    const uint8_t *key = (const uint8_t *)record;
    tcp_flow *flow = table->buckets[bucket_of(table, key)];
    while (flow && memcmp(flow->key, key, sizeof flow->key) != 0)
        flow = flow->next;
    return flow;
}

/* What both ways need */

static byte_ring *send_ring(const flow_state *s)
{
    return (byte_ring *)(uintptr_t)s->send_ring;
}

static byte_ring *receive_ring(const flow_state *s)
{
    return (byte_ring *)(uintptr_t)s->receive_ring;
}

static uint64_t data_end(const flow_state *s)
{
    return s->send_base + send_ring(s)->tail;
}

static uint64_t receive_room(const flow_state *s)
{
    const byte_ring *ring = receive_ring(s);
    uint64_t held = ring->tail - ring->head;
    return held < s->receive_limit ? s->receive_limit - held : 0;
}

/* RFC 7323 5.4: our timestamp clock counts milliseconds. */
static uint32_t timestamp(const flow_state *s, double now)
{
    return (uint32_t)((uint64_t)(int64_t)(now * 1000) + s->ts_offset);
}

static int writable(const flow_state *s)
{
    const byte_ring *ring = send_ring(s);
    int64_t queued = (int64_t)(ring->tail - ring->head);
    return 2 * ((int64_t)s->send_limit - queued) >= queued;
}

double flow_deadline(const tcp_flow *flow)
{
    const flow_state *s = &flow->state;
    return fmin(fmin(s->retransmission, s->delayed_ack), fmin(s->loss_probe, s->keepalive));
}

static uint32_t earlier(const tcp_flow *flow)
{
    return flow_deadline(flow) < flow->scheduled ? FLOW_EARLIER : 0;
}

int flow_timed_out(tcp_flow *flow, double now)
{
    flow_state *s = &flow->state;
    if (s->retransmission <= now || s->loss_probe <= now || s->keepalive <= now || s->delayed_ack > now)
        return 0;
    s->delayed_ack = INFINITY;
    s->ack_now = 1;
    return 1;
}

/* tail_loss.schedule() */
static void schedule_loss_probe(tcp_flow *flow, double now)
{
    flow_state *s = &flow->state;
    s->loss_probe = INFINITY;
    if (!s->loss_probes || !flow->transmission_count)
        return;
    double timeout = 2 * s->srtt;
    if (s->snd_nxt - s->snd_una <= s->mss)
        timeout += WORST_DELAYED_ACK;
    if (isfinite(s->retransmission)) {
        s->loss_probe = fmin(now + timeout, s->retransmission);
        s->probe_timer_since = now;
    }
}

/* SEGMENT ARRIVES */

/* rtt.RoundTripEstimator.measured(), without a backoff to undo */
static void measured(flow_state *s, double rtt, uint64_t ack)
{
    s->latest_rtt = rtt;
    if (rtt < s->min_rtt)
        s->min_rtt = rtt;
    if (ack < s->rtt_round_end)
        return;
    s->rtt_round_end = s->snd_nxt;
    s->rttvar += (fabs(s->srtt - rtt) - s->rttvar) / 4; /* RFC 6298 (2.3) */
    s->srtt += (rtt - s->srtt) / 8;
    double variance = 4 * s->rttvar;
    s->rtt_base = s->srtt + (variance > s->rto_min ? variance : s->rto_min);
    s->rto = s->rtt_base < s->rto_max ? s->rtt_base : s->rto_max;
}

/* recovery.window_full() */
static int window_full(const flow_state *s)
{
    return s->cwnd_limited || (s->cwnd < s->ssthresh && s->cwnd < 2 * s->flight_high);
}

/* The last transmission that `ack` acknowledges something of: its index; the count when there is none. */
static uint32_t newest_acknowledged(const tcp_flow *flow, uint64_t ack)
{
    uint32_t after = 0;
    while (after < flow->transmission_count && flow->transmissions[after].start < ack)
        after++;
    return after ? after - 1 : flow->transmission_count;
}

/* acknowledgment.advance_in_order() */
static void advance(tcp_flow *flow, const frame_record *r, uint64_t ack, uint32_t index, double now)
{
    flow_state *s = &flow->state;
    flow_transmission newest = flow->transmissions[index];
    uint32_t gone = index;
    if (newest.end > ack)
        flow->transmissions[index].start = ack;
    else
        gone++;
    flow->transmission_count -= gone;
    memmove(flow->transmissions, flow->transmissions + gone, flow->transmission_count * sizeof *flow->transmissions);
    double rtt = now - newest.sent_at;
    if (s->timestamps && r->ts_ecr) {
        double echoed = (uint32_t)(timestamp(s, now) - r->ts_ecr) / 1000.0 + 0.001;
        if (echoed < rtt)
            rtt = echoed;
    }
    measured(s, rtt, ack);
    flow_ensemble *ensemble = (flow_ensemble *)(uintptr_t)s->ensemble;
    if (ensemble)
        *ensemble = (flow_ensemble){rtt, now, s->identity};
    s->delivered_total += ack - s->snd_una;
    s->rack_rtt = rtt;
    s->rack_sent_at = newest.sent_at;
    s->rack_end = ack;
    s->unlimited_at = now;
    s->snd_una = ack;
    byte_ring *ring = send_ring(s);
    byte_ring_consume(ring, ack - s->send_base - ring->head);
    s->progress_since = now;
    if (s->was_full && writable(s)) {
        s->was_full = 0;
        flow->news |= FLOW_WRITABLE;
    }
    if (flow->transmission_count) {
        s->retransmission = now + s->rto; /* RFC 6298 (5.3) */
        schedule_loss_probe(flow, now);
    } else {
        s->retransmission = s->loss_probe = INFINITY; /* (5.2) */
    }
}

/* receive_window.tune() */
static void tune(flow_state *s, double now)
{
    double elapsed = now - s->autotune_since;
    uint64_t head = receive_ring(s)->head;
    if (elapsed < TUNING_INTERVAL_MIN)
        return;
    if (s->autotune_window) {
        if (s->rcv_nxt < s->autotune_window && elapsed < s->srtt)
            return;
        uint64_t taken = head - s->autotune_copied;
        uint64_t wanted = 2 * taken + SEGMENTS_AHEAD * s->rcv_mss;
        if (taken > s->autotune_taken) {
            uint64_t least = 4 * s->rcv_mss;
            wanted += wanted * (taken - s->autotune_taken) / (s->autotune_taken > least ? s->autotune_taken : least);
        }
        s->autotune_taken = taken;
        if (wanted > s->receive_limit)
            s->receive_limit = wanted < s->receive_buffer ? wanted : s->receive_buffer;
    }
    s->autotune_since = now;
    s->autotune_window = s->rcv_adv;
    s->autotune_copied = head;
}

/* text.take_in_order() */
static void take_text(tcp_flow *flow, const frame_burst *burst, uint32_t index, double now)
{
    flow_state *s = &flow->state;
    const frame_record *r = &burst->records[index];
    s->data_segments_in++;
    s->last_data_received = now;
    if (r->payload_length > s->rcv_mss)
        s->rcv_mss = r->payload_length < s->rcv_mss_max ? r->payload_length : s->rcv_mss_max;
    uint32_t taken = burst_append_to_ring(burst, index, r->payload_offset, r->payload_length, receive_ring(s));
    s->rcv_nxt += taken;
    s->ack_pending += taken;
    if (taken < r->payload_length)
        s->ack_now = 1;
    flow->news |= FLOW_READABLE;
    if (s->receive_limit < s->receive_buffer)
        tune(s, now);
    if (s->ack_now)
        return;
    if (s->ack_pending >= 2 * s->rcv_mss) {
        s->ack_now = 1; /* RFC 9293 3.8.6.3: at least every second full-sized segment */
    } else if (s->quick_acks) {
        s->quick_acks--;
        s->ack_now = 1;
    } else if (!isfinite(s->delayed_ack)) {
        s->delayed_ack = now + s->delayed_ack_time;
    }
}

/* prediction.expected(), and a mere change of the window; 0 with nothing touched for any other segment */
static int expected(tcp_flow *flow, const frame_burst *burst, uint32_t index, double now)
{
    flow_state *s = &flow->state;
    const frame_record *r = &burst->records[index];
    uint32_t length = r->payload_length;
    uint32_t advanced = r->ack - (uint32_t)s->snd_una;
    uint64_t ack = s->snd_una + advanced;
    uint64_t window = (uint64_t)r->window << s->snd_wscale;
    if ((r->tcp_flags & ~TCP_PSH) != TCP_ACK || r->seq != (uint32_t)s->rcv_nxt || r->options != (s->timestamps ? TCP_HAS_TIMESTAMPS : 0) ||
        ack > s->snd_nxt || !window)
        return 0;
    if (s->timestamps && (uint32_t)(r->ts_val - (uint32_t)s->ts_recent) >= 0x80000000u)
        return 0; /* RFC 7323 5.3 R1 */
    if (length) {
        const byte_ring *ring = receive_ring(s);
        if (s->rcv_nxt + length > s->rcv_adv || length > ring->capacity - (ring->tail - ring->head) || (!advanced && s->snd_wl1 > s->rcv_nxt))
            return 0;
    } else if (!advanced && (window == s->snd_wnd || s->snd_wl1 > s->rcv_nxt || s->snd_wl2 > ack)) {
        return 0; /* a duplicate, or older than the window that we know */
    }
    if (advanced) {
        uint32_t newest = newest_acknowledged(flow, ack);
        if (newest == flow->transmission_count || flow->transmissions[newest].sent_at < s->rack_sent_at || window_full(s))
            return 0;
        advance(flow, r, ack, newest, now);
    }
    if (s->timestamps && s->rcv_nxt <= s->last_ack_sent) {
        s->ts_recent = r->ts_val; /* RFC 7323 4.3 (2) */
        s->ts_recent_age = now;
    }
    s->segments_in++;
    s->last_received = now;
    s->snd_wnd = window;
    s->snd_wl1 = s->rcv_nxt;
    s->snd_wl2 = ack;
    if (window > s->max_send_window)
        s->max_send_window = window;
    if (length)
        take_text(flow, burst, index, now);
    return 1;
}

/* The flow that a whole TCP segment is of, if it is lent. */
static tcp_flow *flow_of(const flow_table *table, const frame_record *record)
{
    return record->verdict == FRAME_OK && record->protocol == PROTOCOL_TCP && !(record->flags & FRAME_FRAGMENT) ? find(table, record) : NULL;
}

int flow_table_acknowledged(const flow_table *table, const frame_burst *burst, uint64_t link_number, double now)
{
    for (uint32_t i = 0; i < burst->count; i++) {
        const tcp_flow *flow = burst->records[i].payload_length ? NULL : flow_of(table, &burst->records[i]);
        if (!flow)
            return 0;
        const flow_path *path = (const flow_path *)(uintptr_t)flow->state.path;
        if (path->link_known_until <= now || path->link_known_in != table->links || path->link_number != link_number)
            return 0;
    }
    return burst->count != 0;
}

void flow_table_receive(flow_table *table, frame_burst *burst, double now)
{
    uint32_t count = 0;
    table->burst_number++;
    table->segments = table->left = 0;
    for (uint32_t i = 0; i < burst->count; i++) {
        frame_record *r = &burst->records[i];
        if (r->verdict == FRAME_MERGED)
            continue;
        tcp_flow *flow = flow_of(table, r);
        if (!flow || flow->left_to_python == table->burst_number) {
            table->left++;
            continue;
        }
        uint32_t before = flow->news;
        if (!expected(flow, burst, i, now)) {
            flow->left_to_python = table->burst_number;
            table->left++;
            continue;
        }
        r->verdict = FRAME_TAKEN;
        table->segments++;
        /* whoever has no news yet is not on the list: a record that was taken always leaves some */
        flow->news |= FLOW_EARLIER;
        if (!before)
            table->touched[count++] = flow;
    }
    for (uint32_t i = 0; i < count; i++) {
        tcp_flow *flow = table->touched[i];
        const flow_state *s = &flow->state;
        uint32_t news = flow->news & ~(uint32_t)FLOW_EARLIER;
        if (s->ack_now || s->snd_nxt < data_end(s))
            news |= FLOW_OUTPUT;
        table->news[i] = (flow_news){flow->number, news | earlier(flow)};
        flow->news = 0;
    }
    table->news_count = count;
}

/* The user's calls */

uint64_t flow_send(tcp_flow *flow, const uint8_t *data, uint64_t length)
{
    flow_state *s = &flow->state;
    byte_ring *ring = send_ring(s);
    uint64_t queued = ring->tail - ring->head;
    uint64_t room = queued < s->send_limit ? s->send_limit - queued : 0;
    uint64_t taken = byte_ring_write(ring, data, length < room ? length : room);
    if (taken < length)
        s->was_full = 1;
    return taken;
}

int flow_writable(tcp_flow *flow)
{
    if (writable(&flow->state))
        return 1;
    flow->state.was_full = 1;
    return 0;
}

/* receive_window.opened() */
static uint32_t received(tcp_flow *flow)
{
    flow_state *s = &flow->state;
    if (isfinite(s->delayed_ack) && !s->interactive) {
        const byte_ring *ring = receive_ring(s);
        if (ring->head == ring->tail)
            s->ack_now = 1;
    }
    uint64_t advertised = s->rcv_adv - s->rcv_nxt;
    uint64_t half = s->receive_limit / 2;
    if (!s->ack_now && advertised < half) {
        uint64_t room = receive_room(s);
        uint64_t gain = room > advertised ? room - advertised : 0;
        if (gain >= 2 * s->rcv_mss || gain >= half)
            s->ack_now = 1;
    }
    return s->ack_now ? FLOW_OUTPUT : 0;
}

uint64_t flow_receive(tcp_flow *flow, uint8_t *data, uint64_t length)
{
    uint64_t taken = byte_ring_read(receive_ring(&flow->state), data, length);
    return taken << 8 | (taken ? received(flow) : 0);
}

/* What goes out */

/* receive_window.advertised_window(), as the field of a segment */
static uint16_t advertised_window(flow_state *s)
{
    uint64_t edge = s->rcv_nxt + receive_room(s);
    uint64_t step = s->receive_limit / 2;
    if (step > s->rcv_mss)
        step = s->rcv_mss;
    if (edge >= s->rcv_adv + step)
        s->rcv_adv = edge;
    else if (edge >= s->rcv_nxt + s->rcv_wnd && s->rcv_nxt + s->rcv_wnd > s->rcv_adv && s->rcv_wnd >= step)
        s->rcv_adv = s->rcv_nxt + s->rcv_wnd;
    uint64_t window = s->rcv_adv - s->rcv_nxt;
    uint64_t most = (uint64_t)65535 << s->rcv_wscale;
    s->rcv_wnd = window < most ? window : most;
    uint64_t field = s->rcv_wnd >> s->rcv_wscale;
    return (uint16_t)(field < 65535 ? field : 65535);
}

static void put32(uint8_t *bytes, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        bytes[i] = (uint8_t)(value >> (24 - 8 * i));
}

/* output._emit(): one segment, with everything an ACK carries; `window` is that of the whole turn */
static void emit(flow_state *s, segment *out, uint64_t seq, uint8_t flags, uint64_t length, uint16_t window, double now)
{
    *out = (segment){
        .path = s->path,
        .seq = (uint32_t)seq,
        .ack = (uint32_t)s->rcv_nxt,
        .window = window,
        .kind = SEGMENT_TCP,
        .tcp_flags = flags,
    };
    if (s->timestamps) {
        static const uint8_t kinds[4] = {1, 1, 8, 10};
        memcpy(out->options, kinds, sizeof kinds);
        put32(out->options + 4, timestamp(s, now));
        put32(out->options + 8, (uint32_t)s->ts_recent);
        out->options_length = TIMESTAMPS_LENGTH;
    }
    s->segments_out++;
    if (length) {
        s->data_segments_out += (length + s->mss - 1) / s->mss;
        out->ring = s->send_ring;
        out->position = seq - s->send_base;
        out->length = (uint32_t)length;
        out->segment_size = (uint16_t)s->mss;
    }
    s->last_ack_sent = s->rcv_nxt;
    s->ack_now = 0;
    s->ack_pending = 0;
    s->delayed_ack = INFINITY;
}

/* scoreboard.sent(); 0 when there is no place for one more */
static int record_sent(tcp_flow *flow, uint64_t start, uint64_t end, double now)
{
    flow_transmission *last = flow->transmissions + flow->transmission_count;
    if (flow->transmission_count && last[-1].sent_at == now) {
        last[-1].end = end;
        return 1;
    }
    if (flow->transmission_count == FLOW_TRANSMISSIONS)
        return 0;
    *last = (flow_transmission){start, end, now};
    flow->transmission_count++;
    return 1;
}

/* output._send_data() */
static uint32_t send_data(tcp_flow *flow, segment_batch *batch, uint32_t index, double now)
{
    flow_state *s = &flow->state;
    uint64_t end = data_end(s), before = s->snd_nxt, in_flight = s->snd_nxt - s->snd_una;
    uint64_t window_end = s->snd_una + s->snd_wnd;
    uint32_t added = 0, news = 0;
    uint16_t window = 0;
    int nagle = !s->nodelay && s->small_until > s->snd_una;
    if (!in_flight && s->last_send != 0 && now - s->last_send > s->rto && s->slow_start_after_idle)
        return FLOW_NOT_MINE << 8; /* RFC 5681 4.1 */
    while (s->snd_nxt < end) {
        uint64_t seq = s->snd_nxt, remaining = end - seq;
        in_flight = seq - s->snd_una;
        uint64_t usable = s->cwnd > in_flight ? s->cwnd - in_flight : 0;
        uint64_t room = window_end > seq ? window_end - seq : 0;
        uint64_t length = remaining < s->super_segment ? remaining : s->super_segment;
        if (length > room)
            length = room;
        if (length > usable)
            length = usable;
        if (length < remaining) {
            if (usable < remaining && usable <= room) {
                news = FLOW_NOT_MINE; /* the congestion window limits: it may have to grow */
                break;
            }
            if (length < s->mss) {
                if (!flow->transmission_count)
                    news = FLOW_NOT_MINE; /* RFC 9293 3.8.6: silly windows and probes */
                break;
            }
            length -= length % s->mss;
        } else if (nagle && length % s->mss) {
            length -= length % s->mss; /* 3.7.4 */
            if (!length)
                break;
        }
        if (index + added >= BATCH_SEGMENTS) {
            news = FLOW_OUTPUT;
            break;
        }
        if (!record_sent(flow, seq, seq + length, now)) {
            news = FLOW_NOT_MINE;
            break;
        }
        if (!added)
            window = advertised_window(s);
        uint8_t flags = length == remaining || length > s->mss ? TCP_ACK | TCP_PSH : TCP_ACK;
        if (length % s->mss)
            s->small_until = seq + length;
        s->snd_nxt = seq + length;
        s->last_send = now;
        if (!isfinite(s->retransmission)) {
            s->retransmission = now + s->rto; /* RFC 6298 (5.1) */
            s->progress_since = now;
        }
        emit(s, &batch->segments[index + added++], seq, flags, length, window, now);
    }
    if (s->snd_nxt > before) {
        schedule_loss_probe(flow, now);
        if (s->data_segments_in && now - s->last_data_received < s->delayed_ack_time) {
            s->quick_acks = 0; /* a conversation: our data carries the ACKs */
            s->interactive = 1;
        }
        /* recovery.note_flight() */
        in_flight = s->snd_nxt - s->snd_una;
        if (s->snd_una >= s->flight_round_end || (in_flight > s->flight_high && !s->cwnd_limited)) {
            s->flight_round_end = s->snd_nxt;
            s->flight_high = in_flight;
            s->cwnd_limited = 0;
        }
    }
    return added | news << 8;
}

/* output.acceptable_seq() */
static uint64_t acceptable_seq(const flow_state *s)
{
    uint64_t edge = s->snd_una + s->snd_wnd;
    return s->snd_nxt <= edge || s->snd_nxt - edge < 1ull << s->snd_wscale ? s->snd_nxt : edge;
}

/* How many segments were added in the low 8 bits, FLOW_* << 8 */
static uint32_t transmit(tcp_flow *flow, segment_batch *batch, uint32_t index, double now)
{
    flow_state *s = &flow->state;
    uint32_t result = s->snd_nxt < data_end(s) ? send_data(flow, batch, index, now) : 0;
    uint32_t added = result & 255;
    if (s->ack_now && !(result >> 8)) {
        if (index + added >= BATCH_SEGMENTS) {
            result |= FLOW_OUTPUT << 8;
        } else {
            emit(s, &batch->segments[index + added], acceptable_seq(s), TCP_ACK, 0, advertised_window(s), now);
            result++;
        }
    }
    return result | earlier(flow) << 8;
}

uint32_t flow_table_transmit(flow_table *table, uint32_t count, segment_batch *batch, uint32_t index, double now)
{
    uint32_t done = 0;
    table->segments = table->news_count = 0;
    while (done < count && index + table->segments < BATCH_SEGMENTS) {
        tcp_flow *flow = (tcp_flow *)(uintptr_t)table->outgoing[done];
        uint32_t result = flow->lent ? transmit(flow, batch, index + table->segments, now) : FLOW_NOT_MINE << 8;
        uint32_t news = result >> 8;
        table->segments += result & 255;
        if (news)
            table->news[table->news_count++] = (flow_news){done, news};
        done++;
        if (news & FLOW_NOT_MINE)
            break;
    }
    return done;
}
