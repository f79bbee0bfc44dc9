-- Names that people expect.
create view market_ticks as
select t.time, s.symbol, t.ask, t.bid, s.broker
from ticks t join series s on s.id = t.series_id;

create view market_trades as
select t.time, s.symbol, t.price, t.size,
       case t.side when 'b' then 'buy' when 's' then 'sell' end as side, t.trade_id, s.broker
from trades t join series s on s.id = t.series_id;

create view forex_candles_1m as
select c.time, s.symbol, c.open, c.high, c.low, c.close, c.volume::double precision as volume, s.broker
from candles c join series s on s.id = c.series_id
where c.timeframe = 60 and s.type = 'tick';

create view forex_candles_5m as
select c.time, s.symbol, c.open, c.high, c.low, c.close, c.volume::double precision as volume, s.broker
from candles c join series s on s.id = c.series_id
where c.timeframe = 300 and s.type = 'tick';

create view forex_candles_15m as
select c.time, s.symbol, c.open, c.high, c.low, c.close, c.volume::double precision as volume, s.broker
from candles c join series s on s.id = c.series_id
where c.timeframe = 900 and s.type = 'tick';

create view forex_candles_30m as
select c.time, s.symbol, c.open, c.high, c.low, c.close, c.volume::double precision as volume, s.broker
from candles c join series s on s.id = c.series_id
where c.timeframe = 1800 and s.type = 'tick';

create view forex_candles_1h as
select c.time, s.symbol, c.open, c.high, c.low, c.close, c.volume::double precision as volume, s.broker
from candles c join series s on s.id = c.series_id
where c.timeframe = 3600 and s.type = 'tick';

create view forex_candles_4h as
select c.time, s.symbol, c.open, c.high, c.low, c.close, c.volume::double precision as volume, s.broker
from candles c join series s on s.id = c.series_id
where c.timeframe = 14400 and s.type = 'tick';

create view forex_candles_12h as
select c.time, s.symbol, c.open, c.high, c.low, c.close, c.volume::double precision as volume, s.broker
from candles c join series s on s.id = c.series_id
where c.timeframe = 43200 and s.type = 'tick';

create view forex_candles_1d as
select c.time, s.symbol, c.open, c.high, c.low, c.close, c.volume::double precision as volume, s.broker
from candles c join series s on s.id = c.series_id
where c.timeframe = 86400 and s.type = 'tick';
